"""Files of a FAT12, FAT16 or FAT32 file system, by path.

Source: Microsoft, FAT: General Overview of On-Disk Format, 1.03.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cbtfs.core.extent import Extent
from cbtfs.files.fat.directory import ENTRY_BYTES, FatEntry, entries
from cbtfs.files.folder import Folder, scan_by_entries
from cbtfs.files.protocol import (
    Entry,
    FileExtent,
    FileSystemDamaged,
    GuestFileMissing,
    Kind,
)
from cbtfs.volumes.source import Source, read_bytes

_MAX_FAT12: Final = 4085
_MAX_FAT16: Final = 65525
_BAD_CLUSTER: Final = {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}
_MAX_DIRECTORY_BYTES: Final = 65536 * ENTRY_BYTES
_MAX_CLUSTER_BYTES: Final = 1 << 18
_PAGE_BYTES: Final = 3 << 12
"""Unit of reads of the table: whole entries of each width."""
_DIRECTORIES: Final = 64


class _Layout(NamedTuple):
    """Places and sizes in bytes."""

    bits: int
    cluster: int
    table: int
    data: int
    """Start of cluster 2."""
    clusters: int
    root: tuple[int, int]
    """Offset and length of the root directory; of FAT32, its first cluster and 0."""


class FatFileSystem:
    """A FAT file system. All methods take paths; see FileSystem for the errors."""

    notes: Sequence[str] = ()

    def __init__(self, source: Source) -> None:
        """Open the file system of *source*."""
        self._source = source
        self._layout = _layout(source)
        self.kind = f"fat{self._layout.bits}"
        self._page = (-1, b"")
        self._directories: OrderedDict[int, dict[str, Entry]] = OrderedDict()
        self._clusters: dict[int, int] = {}

    def stat(self, path: str) -> Entry:
        """Return the entry of a path."""
        entry = Entry("", Kind.DIRECTORY, 1, mode=0o755)
        cluster = 0
        for name in filter(None, path.split("/")):
            if entry.kind is not Kind.DIRECTORY:
                raise GuestFileMissing(f"{path}: no such file")
            found = self._names(cluster).get(name)
            if found is None:
                raise GuestFileMissing(f"{path}: no such file")
            entry, cluster = found, self._clusters[found.inode]
        return entry

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the entries of a directory."""
        yield from list(self._names(self._of_kind(path, Kind.DIRECTORY)[1]).values())

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a file, fewer only at its end."""
        data = bytearray()
        for extent in self.extents(path, offset):
            assert extent.offset is not None
            part = read_bytes(self._source, extent.offset, min(extent.length, length - len(data)))
            data += part
            if len(data) >= length or len(part) < extent.length:
                break
        return bytes(data)

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the extents of a file from *offset* on: FAT has no holes."""
        entry, first = self._of_kind(path, Kind.FILE)
        size, at = self._layout.cluster, 0
        for cluster, count in self._runs(first, entry.size) if entry.size else ():
            end = min(at + count * size, entry.size)
            start = max(at, offset)
            if start < end:
                place = self._offset(cluster) + start - at
                yield FileExtent(start, end - start, place)
            at = end
        if at < entry.size:
            raise FileSystemDamaged(f"{path}: its content ends early")

    def target(self, path: str) -> str:
        """Raise GuestFileMissing: FAT has no links."""
        self.stat(path)
        raise GuestFileMissing(f"{path}: not a link")

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return no attributes: FAT has none."""
        self.stat(path)
        return {}

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        """Yield all directories of the file system."""
        yield from scan_by_entries(self, areas)

    def _of_kind(self, path: str, kind: Kind) -> tuple[Entry, int]:
        entry = self.stat(path)
        if entry.kind is not kind:
            raise GuestFileMissing(f"{path}: not a {kind.value}")
        cluster = self._clusters.get(entry.inode, 0)
        if kind is Kind.DIRECTORY and not cluster and path != "/":
            raise FileSystemDamaged(f"{path}: the directory has no content")
        return entry, cluster

    def _names(self, cluster: int) -> dict[str, Entry]:
        """Return the files in the directory with that first cluster; 0 is the root."""
        known = self._directories.get(cluster)
        if known is not None:
            self._directories.move_to_end(cluster)
            return known
        places = list(self._directory(cluster))
        data = b"".join(read_bytes(self._source, *place) for place in places)
        found: dict[str, Entry] = {}
        size = places[0][1] if places else 1
        for item in entries(data):
            if item.name in found:
                raise FileSystemDamaged("a directory is damaged: it has a name twice")
            # The place of its entry identifies a file, as in Linux.
            inode = (places[item.at // size][0] + item.at % size) // ENTRY_BYTES
            found[item.name] = _entry(item, inode)
            self._clusters[inode] = item.cluster
        self._directories[cluster] = found
        if len(self._directories) > _DIRECTORIES:
            self._directories.popitem(last=False)
        return found

    def _directory(self, cluster: int) -> Iterator[tuple[int, int]]:
        """Yield offset and length of the parts of a directory, which have one length."""
        layout, root = self._layout, self._layout.root
        if not cluster and root[1]:
            yield root
            return
        total = 0
        for first, count in self._runs(cluster or root[0], _MAX_DIRECTORY_BYTES):
            for number in range(first, first + count):
                total += layout.cluster
                if total > _MAX_DIRECTORY_BYTES:
                    raise FileSystemDamaged("a directory is larger than 2 MiB")
                yield self._offset(number), layout.cluster

    def _offset(self, cluster: int) -> int:
        return self._layout.data + (cluster - 2) * self._layout.cluster

    def _runs(self, cluster: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield first cluster and number of clusters of each run of a chain, for *size* bytes."""
        layout = self._layout
        remaining = -(-size // layout.cluster)
        first, count = cluster, 0
        while 2 <= cluster < layout.clusters + 2 and remaining:
            if cluster != first + count:
                yield first, count
                first, count = cluster, 0
            count += 1
            remaining -= 1
            cluster = self._next(cluster)
        if count:
            yield first, count
        if remaining and not _BAD_CLUSTER[layout.bits] < cluster:
            raise FileSystemDamaged(f"a chain of clusters leads to {cluster}")

    def _next(self, cluster: int) -> int:
        """Return the entry of a cluster in the table."""
        bits = self._layout.bits
        at = cluster * bits // 8
        number = at // _PAGE_BYTES
        if self._page[0] != number:
            start = self._layout.table + number * _PAGE_BYTES
            # An entry of 12 bits never crosses a page, which has a multiple of 3 bytes.
            self._page = number, read_bytes(self._source, start, _PAGE_BYTES)
        at %= _PAGE_BYTES
        value = int.from_bytes(self._page[1][at : at + (4 if bits == 32 else 2)], "little")
        if bits == 12:
            return value >> 4 if cluster & 1 else value & 0xFFF
        return value & 0x0FFFFFFF


def _entry(item: FatEntry, inode: int) -> Entry:
    mode = 0o555 if item.is_read_only else 0o755
    return Entry(
        item.name,
        Kind.DIRECTORY if item.is_directory else Kind.FILE,
        inode,
        mode if item.is_directory else mode & 0o644,
        size=0 if item.is_directory else item.size,
        accessed_ns=item.accessed_ns,
        modified_ns=item.modified_ns,
        changed_ns=item.modified_ns,
        created_ns=item.created_ns,
    )


def _layout(source: Source) -> _Layout:
    """Return the layout that the boot sector states.

    Raises:
        FileSystemDamaged: it is not possible.
    """
    boot = read_bytes(source, 0, 512)
    if len(boot) < 512:
        raise FileSystemDamaged("no boot sector of FAT")
    sector, per_cluster, reserved, tables, root_entries, small = struct.unpack_from(
        "<HBHBHH", boot, 11
    )
    (table_16,) = struct.unpack_from("<H", boot, 22)
    large, table_32 = struct.unpack_from("<II", boot, 32)
    cluster, table = sector * per_cluster, (table_16 or table_32) * sector
    is_power = cluster and not cluster & (cluster - 1) and not sector & (sector - 1)
    if not is_power or sector < 512 or cluster > _MAX_CLUSTER_BYTES or not reserved or not tables:
        raise FileSystemDamaged("its boot sector is damaged")
    root = reserved * sector + tables * table
    root_bytes = -(-root_entries * ENTRY_BYTES // sector) * sector
    data = root + root_bytes
    clusters = (min((small or large) * sector, source.size) - data) // cluster
    if clusters <= 0:
        raise FileSystemDamaged("its boot sector is damaged")
    if not table_16:
        (first,) = struct.unpack_from("<I", boot, 44)
        clusters = min(clusters, table // 4 - 2)
        return _Layout(32, cluster, reserved * sector, data, clusters, (first, 0))
    bits = 12 if clusters < _MAX_FAT12 else 16
    clusters = min(clusters, table * 8 // bits - 2)
    return _Layout(bits, cluster, reserved * sector, data, clusters, (root, root_bytes))
