"""Parts of a guest's file on the disks of its point."""

from collections.abc import Iterator
from dataclasses import dataclass

from cbtfs.core.extent import Extent
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.names import printable
from cbtfs.errors import UsageError
from cbtfs.files.protocol import FileSystemDamaged, Kind
from cbtfs.files.tree import File
from cbtfs.files.volumes import SliceSource, Volume
from cbtfs.reader import Disk


@dataclass(frozen=True, slots=True)
class DiskPart:
    """A part of a file that is not a hole."""

    start: int
    """Offset in the file."""
    length: int
    disk: DiskRecord | None
    """None: the part is within the structures of the file system, or in its journal."""
    offset: int = 0
    """Offset on the disk."""

    @property
    def extent(self) -> Extent:
        """The range of the disk."""
        return Extent(self.offset, self.length)


def disk_parts(file: File) -> Iterator[DiskPart]:
    """Yield the parts of a regular file, ascending by their offset in the file.

    Raises:
        UsageError: it is not a regular file.
        FileSystemDamaged: a part is beyond the end of its volume.
        CbtfsError: the file system cannot be read.
    """
    path = printable(file.path)
    if file.entry.kind is not Kind.FILE:
        raise UsageError(f"{path} is not a regular file but a {file.entry.kind}: name a file")
    for extent in file.extents():
        length = min(extent.length, file.entry.size - extent.start)
        if length <= 0:  # Blocks that are reserved beyond the end of the file.
            return
        if extent.offset is None:
            yield DiskPart(extent.start, length, None)
            continue
        at = extent.start
        for disk, offset, count in _pieces(file.volume, extent.offset, length):
            yield DiskPart(at, count, disk, offset)
            at += count
        if at < extent.start + length:
            raise FileSystemDamaged(f"{path}: a part of it is beyond the end of the volume")


def _pieces(volume: Volume, offset: int, length: int) -> Iterator[tuple[DiskRecord, int, int]]:
    """Yield disk, offset and length of bytes of a volume, fewer at its end."""
    source = volume.source
    if isinstance(source, SliceSource):
        for piece in source.slice.pieces(offset, length):
            disk = source.disks[piece.disk].record
            count = min(piece.length, disk.size - piece.offset)
            if count > 0:
                yield disk, piece.offset, count
    elif isinstance(source, Disk):
        count = min(length, source.size - offset)
        if count > 0:
            yield source.record, offset, count
