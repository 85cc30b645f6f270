"""What hosts, datastores, the clock and this machine mean for the backup."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.doctor.finding import Finding, Severity
from cbtfs.source.transport.vddk.library import VERSIONS, find_library
from cbtfs.source.vsphere.inventory.hosts import HostState
from cbtfs.source.vsphere.inventory.machine import DatastoreFacts

_CLOCK_SECONDS: Final = 60
_SCARCE: Final = 0.05
"""Of a datastore: what guests write while a snapshot is there has to fit."""
_SECONDS: Final = 10


def of_clock(server: datetime, here: datetime) -> Iterator[Finding]:
    """Points bear the server's time; retention and ages go by the clock here."""
    off = (server - here).total_seconds()
    if abs(off) >= _CLOCK_SECONDS:
        yield Finding(
            "clock",
            Severity.WARNING,
            f"the server's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the one "
            "here",
            "synchronise both (NTP)",
        )


def of_library(libdir: Path) -> Finding:
    """VMware's library, found or not."""
    place = find_library(libdir)
    if place is None:
        return Finding(
            "vddk",
            Severity.INFO,
            f"there is no VDDK {VERSIONS} in {libdir}: no transport vddk, nor nbd by nbdkit",
            "unpack it there (Broadcom gives it to customers), or name its directory by "
            "--vddk-libdir",
        )
    version = f"{place.major}.{place.minor}"
    return Finding("vddk", Severity.INFO, f"VDDK with interface {version}: {place.path}", "")


def of_nbdkit() -> Finding:
    """nbdkit, found or not."""
    program = process.find_program("nbdkit")
    if program is None:
        return Finding(
            "nbdkit",
            Severity.INFO,
            "nbdkit is not installed: no transport nbd without --nbd-uri",
            "install nbdkit and its vddk plugin, if that transport is wanted",
        )
    try:
        said = process.run([program, "--version"], _SECONDS).stdout
    except (OSError, process.TimeoutExpired):
        said = ""
    return Finding("nbdkit", Severity.INFO, f"{said.strip() or 'nbdkit'}: {program}", "")


def of_host(
    host: HostState,
    closed: Mapping[int, str],
    https_port: int,
    nfc_port: int,
    *,
    is_read: bool,
) -> Iterator[Finding]:
    """*closed*: ports that cannot be reached, and why. *is_read*: by VMware's library."""
    if host.connection != "connected":
        yield Finding(
            "host",
            Severity.BLOCKS,
            f"its state is {host.connection}",
            "see to it that it runs and is connected",
        )
    if host.is_in_maintenance:
        yield Finding(
            "host",
            Severity.WARNING,
            "it is in maintenance mode: VMware's library is refused there",
            "end that, or move its VMs away first",
        )
    if nfc_port in closed:
        yield Finding(
            "port",
            Severity.BLOCKS if is_read else Severity.INFO,
            f"port {nfc_port} cannot be reached from here: {closed[nfc_port]}",
            f"let this machine through to {host.name}, TCP {nfc_port} (VMware's library reads "
            "disks there), or give --transport datastore",
        )
    if https_port in closed and https_port != nfc_port:
        yield Finding(
            "port",
            Severity.INFO,
            f"port {https_port} cannot be reached from here: {closed[https_port]}",
            "needed only where --server names the host itself",
        )


def of_datastore(store: DatastoreFacts) -> Iterator[Finding]:
    if not store.is_accessible:
        yield Finding(
            "datastore",
            Severity.BLOCKS,
            "it cannot be accessed by its hosts",
            "see to its storage",
        )
    elif store.capacity and store.free < store.capacity * _SCARCE:
        yield Finding(
            "datastore",
            Severity.WARNING,
            f"{store.free / store.capacity:.1%} of it is free: what guests write while there is a "
            "snapshot may not fit",
            "make room on it",
        )
