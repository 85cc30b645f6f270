"""The small files of a VM on its datastores: configuration, NVRAM, descriptors of disks.

They are read over the session's HTTPS. A file that is not there, is locked by the host that runs
the VM, or may not be read is told of: a restore point does without.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.errors import AccessDenied, CbtfsError
from cbtfs.source.transport.web import DatastoreFiles, Web, is_path
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import Machine
from cbtfs.source.vsphere.inventory.settings import kept_vmx

_MOST_BYTES: Final = 8 << 20
"""Of one file: an NVRAM with EFI variables has 0.3 MB."""
_SECONDS: Final = 30.0
"""For one answer, and until no more files are asked for: a point must not wait for them."""
_DENIED: Final = "the user needs Datastore.Browse and Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class VmFile:
    """A small file of a VM."""

    name: str
    """What it is called in a point."""
    identity: str
    """Whose history it is within the VM."""
    content: bytes


class Missing(NamedTuple):
    """A file that could not be read."""

    name: str
    reason: str


class _Wanted(NamedTuple):
    name: str
    identity: str
    path: str
    keep: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What could be read, and what could not."""

    files: tuple[VmFile, ...]
    missing: tuple[Missing, ...]

    def notes(self) -> Iterator[str]:
        """A line for each reason."""
        for reason in dict.fromkeys(each.reason for each in self.missing):
            names = ", ".join(each.name for each in self.missing if each.reason == reason)
            yield f"not kept: {names}: {reason}"


def fetch_files(
    web: Web,
    datacenter: str,
    vm: str,
    machine: Machine,
    disks: Sequence[DiskFacts],
    clock: Callable[[], float] = time.monotonic,
) -> Fetched:
    """The files of the VM called *vm* and the descriptors of *disks*; one request for each."""
    store = DatastoreFiles(web._replace(seconds=min(web.seconds, _SECONDS), pauses=(0.0,)))
    until = clock() + _SECONDS
    found, missing = [], []
    try:
        for wanted in _wanted(vm, machine, disks):
            if clock() >= until:
                missing.append(Missing(wanted.name, "the server took too long over the others"))
                continue
            try:
                content = store.load(wanted.path, datacenter, _MOST_BYTES)
            except AccessDenied:
                missing.append(Missing(wanted.name, _DENIED))
            except CbtfsError as exc:
                missing.append(Missing(wanted.name, str(exc)))
            else:
                found.append(VmFile(wanted.name, wanted.identity, wanted.keep(content)))
    finally:
        store.close()
    return Fetched(tuple(found), tuple(missing))


def _wanted(vm: str, machine: Machine, disks: Sequence[DiskFacts]) -> Iterator[_Wanted]:
    vmx = str(machine.config.files.vmPathName or "")
    if is_path(vmx):
        folder, _, name = vmx.rpartition("/")
        roots = {disk.slot: disk.root.rpartition("/")[2] for disk in disks if is_path(disk.root)}
        nvram = machine.settings().get("nvram", "")
        if not nvram or "/" in nvram:  # one that leads elsewhere may be another VM's
            nvram = f"{name.removesuffix('.vmx')}.nvram"
        yield _Wanted(f"{vm}.vmx", "file:vmx", vmx, lambda content: kept_vmx(content, roots))
        yield _Wanted(f"{vm}.nvram", "file:nvram", f"{folder}/{nvram}", _as_it_is)
    for disk in disks:
        if is_path(disk.path):
            identity = f"file:descriptor:{disk.identity}"
            yield _Wanted(f"{disk.label}.vmdk", identity, disk.path, _as_it_is)


def _as_it_is(content: bytes) -> bytes:
    return content
