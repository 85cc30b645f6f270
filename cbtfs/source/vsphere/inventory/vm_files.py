"""Fetch the small files of a VM from its datastores: configuration, NVRAM, disk descriptors.

They are read over HTTPS with the session's cookie. A file that is missing, locked by the VM's host
or unreadable for the user is reported; the restore point then lacks it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.errors import AccessDenied, CbtfsError
from cbtfs.source.transport.web import DatastoreFiles, Web, is_path
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import Machine
from cbtfs.source.vsphere.inventory.settings import kept_vmx

_MAX_BYTES: Final = 8 << 20
"""Maximum size of one file; an NVRAM with EFI variables has 0.3 MB."""
_SECONDS: Final = 30.0
"""Timeout of one answer and of all requests together, because a point must not wait for files."""
_DENIED: Final = "the user needs Datastore.Browse and Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class VmFile:
    """A small file of a VM."""

    name: str
    """The name in a restore point."""
    identity: str
    """The file's key within the VM in a repository."""
    content: bytes


class Missing(NamedTuple):
    """A file that could not be read."""

    name: str
    reason: str


class WantedFile(NamedTuple):
    """A file to fetch."""

    name: str
    """The name in a restore point."""
    identity: str
    path: str
    """`[datastore] folder/name`."""
    keep: Callable[[bytes], bytes]
    """Return the content without secrets."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files that could be read, and the others with the reason."""

    files: tuple[VmFile, ...]
    missing: tuple[Missing, ...]

    def notes(self) -> Iterator[str]:
        """Yield one line for each reason."""
        for reason in dict.fromkeys(file.reason for file in self.missing):
            names = ", ".join(file.name for file in self.missing if file.reason == reason)
            yield f"not stored: {names}: {reason}"


def fetch_files(
    web: Web,
    datacenter: str,
    wanted: Iterable[WantedFile],
    clock: Callable[[], float] = time.monotonic,
) -> Fetched:
    """Fetch the *wanted* files from datastores of *datacenter*, by one request for each."""
    store = DatastoreFiles(web._replace(seconds=min(web.seconds, _SECONDS), pauses=(0.0,)))
    until = clock() + _SECONDS
    files, missing = [], []
    try:
        for file in wanted:
            if clock() >= until:
                missing.append(Missing(file.name, "the server took too long for the other files"))
                continue
            try:
                content = store.load(file.path, datacenter, _MAX_BYTES)
            except AccessDenied:
                missing.append(Missing(file.name, _DENIED))
            except CbtfsError as exc:
                missing.append(Missing(file.name, str(exc)))
            else:
                files.append(VmFile(file.name, file.identity, file.keep(content)))
    finally:
        store.close()
    return Fetched(tuple(files), tuple(missing))


def wanted_files(vm: str, machine: Machine, disks: Sequence[DiskFacts]) -> Iterator[WantedFile]:
    """Yield the small files of the VM named *vm*, and the descriptors of *disks*."""
    vmx = str(machine.config.files.vmPathName or "")
    if is_path(vmx):
        folder, _, name = vmx.rpartition("/")
        roots = {disk.slot: disk.root.rpartition("/")[2] for disk in disks if is_path(disk.root)}
        nvram = machine.settings().get("nvram", "")
        if not nvram or "/" in nvram:  # a path to another folder may be the file of another VM
            nvram = f"{name.removesuffix('.vmx')}.nvram"
        yield WantedFile(f"{vm}.vmx", "file:vmx", vmx, lambda content: kept_vmx(content, roots))
        yield WantedFile(f"{vm}.nvram", "file:nvram", f"{folder}/{nvram}", _unchanged)
    for disk in disks:
        if is_path(disk.path):
            identity = f"file:descriptor:{disk.identity}"
            yield WantedFile(f"{disk.label}.vmdk", identity, disk.path, _unchanged)


def _unchanged(content: bytes) -> bytes:
    return content
