"""The datastore transport: HTTPS range requests for the flat file of a disk.

While a VM has exactly one snapshot, its guest writes to delta files, and the flat file of each
disk has exactly the content of the snapshot. This transport needs no VMware library. It cannot
read a VM with an older snapshot, another kind of backing, or storage without files (vSAN, VVol).
"""

import re
from collections.abc import Sequence
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import Stopped, copy_into
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.transport.web import DatastoreFiles, Web, parse_path
from cbtfs.source.vsphere.connect.role import Use

SECTOR: Final = 512
_TYPES: Final = ("VMFS", "NFS", "NFS41")
_MAX_DESCRIPTOR: Final = 1 << 20
_EXTENT: Final = re.compile(
    r'^(?:RW|RDONLY) (\d{1,18}) (\w+) "([^"]+)"(?: (\d{1,18}))?\s*$', re.MULTILINE
)


class DatastoreTransport:
    """Reads the flat files of disks through the server's /folder."""

    name = "datastore"
    access = None
    privileges: frozenset[Use] = frozenset({"datastore"})

    def __init__(self, web: Web) -> None:
        self._web = web

    def connections(self) -> int:
        """Return 1: the vCenter reads the files from the host by NFC."""
        return 1

    def refusal(self, disk: TransportDisk) -> str | None:
        if not disk.is_alone:
            return (
                "the VM has another snapshot, or the disk has a parent as in a linked clone: the "
                "flat file does not have the content of this snapshot"
            )
        if not disk.is_flat:
            return "its backing is not a flat file"
        if disk.datastore_type not in _TYPES:
            return f"its datastore is of type {disk.datastore_type}, which has no flat files"
        return None

    def probe(self, disk: TransportDisk) -> str | None:
        """Read the first sector: a host may refuse the base disk of a running VM."""
        if not disk.size:
            return None
        try:
            reader = self.open(disk)
            try:
                reader.read(Extent(0, min(SECTOR, disk.size)))
            finally:
                reader.close()
        except Stopped:
            raise
        except SourceUnavailable as exc:
            return str(exc)
        return None

    def open(self, disk: TransportDisk) -> DiskReader:
        why = self.refusal(disk)
        if why is not None:
            raise SourceUnavailable(f"transport datastore: {why}")
        files = DatastoreFiles(self._web)
        try:
            return _FlatReader(files, disk)
        except BaseException:
            files.close()
            raise


class _FlatReader:
    """One flat file."""

    mode = "https"

    def __init__(self, files: DatastoreFiles, disk: TransportDisk) -> None:
        self._files = files
        self.size = disk.size
        descriptor = files.load(disk.path, disk.datacenter, _MAX_DESCRIPTOR)
        name = flat_file(descriptor.decode("utf-8", "replace"), disk)
        folder = parse_path(disk.path).file.rpartition("/")[0]
        self._path = f"[{parse_path(disk.path).datastore}] {folder}/{name}"
        self._url = files.url(self._path, disk.datacenter)

    def allocated(self) -> Sequence[Extent]:
        """Return the whole disk: HTTPS does not distinguish holes from zeros."""
        return [Extent(0, self.size)] if self.size else []

    def read(self, extent: Extent) -> bytes:
        return self._files.read(self._path, self._url, extent, self.size)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def close(self) -> None:
        self._files.close()


def flat_file(descriptor: str, disk: TransportDisk) -> str:
    """Return the only flat extent of a disk's descriptor; SourceUnavailable if it has others.

    The form is that of VMware's Virtual Disk Format 5.0.
    """
    extents = _EXTENT.findall(descriptor)
    if "parentFileNameHint" in descriptor or len(extents) != 1:
        raise SourceUnavailable(f"{printable(disk.path)} is not the descriptor of one flat file")
    sectors, kind, name, offset = extents[0]
    if kind not in ("VMFS", "FLAT") or "/" in name or int(offset or 0):
        raise SourceUnavailable(f"{printable(disk.path)} has an extent of type {kind}, not flat")
    if int(sectors) * SECTOR != disk.size:
        raise SourceUnavailable(
            f"{printable(disk.path)} describes {int(sectors) * SECTOR} bytes, but the disk has "
            f"{disk.size}"
        )
    return str(name)
