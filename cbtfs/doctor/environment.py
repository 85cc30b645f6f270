"""Findings about hosts, datastores, the clock, and the programs on this machine."""

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
"""Smallest difference of the clocks that is reported."""
_LOW_SPACE: Final = 0.05
"""Free fraction of a datastore below which writes of guests may fill it during a snapshot."""
_SECONDS: Final = 10
"""Timeout of `nbdkit --version`."""


def of_clock(server: datetime, here: datetime) -> Iterator[Finding]:
    """Yield a finding if the clocks differ.

    Points have the server's time, while retention and ages use the local clock.
    """
    difference = (server - here).total_seconds()
    if abs(difference) >= _CLOCK_SECONDS:
        direction = "ahead of" if difference > 0 else "behind"
        yield Finding(
            "clock",
            Severity.WARNING,
            f"the server's clock is {abs(difference):.0f} s {direction} the local clock",
            "synchronize both by NTP",
        )


def of_library(libdir: Path) -> Finding:
    """Report whether VMware's library is installed in *libdir*."""
    file = find_library(libdir)
    if file is None:
        return Finding(
            "vddk",
            Severity.INFO,
            f"no VDDK {VERSIONS} in {libdir}: the transports vddk and nbd (by nbdkit) are not "
            "available",
            "unpack it there (Broadcom provides it to customers), or give its directory with "
            "--vddk-libdir",
        )
    version = f"{file.major}.{file.minor}"
    return Finding("vddk", Severity.INFO, f"VDDK with interface {version}: {file.path}", "")


def of_nbdkit() -> Finding:
    """Report whether nbdkit is installed."""
    program = process.find_program("nbdkit")
    if program is None:
        return Finding(
            "nbdkit",
            Severity.INFO,
            "nbdkit is not installed: the transport nbd needs --nbd-uri",
            "install nbdkit and its vddk plugin to use that transport",
        )
    try:
        version = process.run([program, "--version"], _SECONDS).stdout
    except (OSError, process.TimeoutExpired):
        version = ""
    return Finding("nbdkit", Severity.INFO, f"{version.strip() or 'nbdkit'}: {program}", "")


def of_host(
    host: HostState,
    closed: Mapping[int, str],
    https_port: int,
    nfc_port: int,
    *,
    is_read: bool,
) -> Iterator[Finding]:
    """Yield the findings of a host.

    *closed* has the unreachable ports, each with the reason. *is_read* is true if VMware's library
    reads disks from the host.
    """
    if host.connection != "connected":
        yield Finding(
            "host",
            Severity.BLOCKS,
            f"its state is {host.connection}",
            "check that it is running and connected",
        )
    if host.is_in_maintenance:
        yield Finding(
            "host",
            Severity.WARNING,
            "it is in maintenance mode, in which it refuses VMware's library",
            "exit maintenance mode, or migrate its VMs first",
        )
    if nfc_port in closed:
        yield Finding(
            "port",
            Severity.BLOCKS if is_read else Severity.INFO,
            f"cannot connect to port {nfc_port}: {closed[nfc_port]}",
            f"allow connections from this machine to {host.name}, TCP {nfc_port} (VMware's library "
            "reads disks there), or give --transport datastore",
        )
    if https_port in closed and https_port != nfc_port:
        yield Finding(
            "port",
            Severity.INFO,
            f"cannot connect to port {https_port}: {closed[https_port]}",
            "needed only if --server is the host itself",
        )


def of_datastore(store: DatastoreFacts) -> Iterator[Finding]:
    if not store.is_accessible:
        yield Finding(
            "datastore",
            Severity.BLOCKS,
            "its hosts cannot access it",
            "check its storage",
        )
    elif store.capacity and store.free < store.capacity * _LOW_SPACE:
        yield Finding(
            "datastore",
            Severity.WARNING,
            f"only {store.free / store.capacity:.1%} is free: writes of guests may fill it during "
            "a snapshot",
            "free space on the datastore",
        )
