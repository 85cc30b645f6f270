"""The content of an open file of a guest: parts of disks, or bytes that its engine reads."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from cbtfs.errors import DataCorrupt
from cbtfs.files.protocol import FileExtent, FileSystemUnsupported, Kind
from cbtfs.files.tree import File
from cbtfs.files.volumes import SliceSource, Volume
from cbtfs.reader import Disk
from cbtfs.volumes.segment import Area, Segment, Slice

_MAX_EXTENTS: Final = 1 << 20
_MAX_SEGMENTS: Final = 1 << 12
_START: Final = attrgetter("start")


@dataclass(frozen=True, slots=True)
class GuestContent:
    """A regular file: its extents, and its parts of disks if it consists of such parts only."""

    size: int
    volume: Volume
    extents: Sequence[FileExtent]
    slice: Slice | None

    def parts(self, offset: int, length: int) -> list[FileExtent]:
        """Return the parts of extents in a range, ascending; what is between them is zeros."""
        end = min(offset + length, self.size)
        first = max(bisect_right(self.extents, offset, key=_START) - 1, 0)
        found = []
        for extent in self.extents[first:]:
            if extent.start >= end:
                break
            start, stop = max(extent.start, offset), min(extent.end, end)
            if start < stop:
                place = None if extent.offset is None else extent.offset + start - extent.start
                found.append(FileExtent(start, stop - start, place))
        return found


def content_of(file: File, disks: Sequence[Disk]) -> GuestContent:
    """Return the content of a file; the engine is called.

    Raises:
        FileSystemUnsupported: it is no regular file, or its content cannot be read.
        CbtfsError: its extents cannot be read.
    """
    entry = file.entry
    if entry.kind is not Kind.FILE or entry.defect is not None:
        raise FileSystemUnsupported(f"{file.path}: {entry.defect or entry.kind.value}")
    extents: list[FileExtent] = []
    for extent in file.extents():
        extents.append(extent)
        if len(extents) > _MAX_EXTENTS:
            raise DataCorrupt(f"{file.path}: more than {_MAX_EXTENTS} extents")
    return GuestContent(entry.size, file.volume, extents, _slice(file, extents, disks))


def _slice(file: File, extents: Sequence[FileExtent], disks: Sequence[Disk]) -> Slice | None:
    """Return the file as parts of disks; None if it has holes, or parts that are elsewhere."""
    segments: list[Segment] = []
    at = 0
    for extent in extents:
        if extent.start != at or extent.offset is None or len(segments) > _MAX_SEGMENTS:
            return None
        for disk, offset, length in _places(file.volume, extent.offset, extent.length, disks):
            segments.append(Segment(at, length, (Area(disk, offset),), length))
            at += length
    return Slice((file.path,), tuple(segments)) if segments and at == file.entry.size else None


def _places(
    volume: Volume, offset: int, length: int, disks: Sequence[Disk]
) -> Sequence[tuple[int, int, int]]:
    """Return disk, offset and length of each part of a range of a volume."""
    source = volume.source
    if isinstance(source, SliceSource):
        return list(source.slice.pieces(offset, length))
    for number, disk in enumerate(disks):
        if isinstance(source, Disk) and disk.record == source.record:
            return [(number, offset, length)]
    return []
