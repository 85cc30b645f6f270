"""The content of an open file of a guest: parts of disks and holes, or bytes of its engine."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

from cbtfs.errors import DataCorrupt
from cbtfs.files.protocol import FileExtent, FileSystemUnsupported, Kind
from cbtfs.files.tree import File
from cbtfs.files.volumes import SliceSource, Volume
from cbtfs.reader import Disk
from cbtfs.volumes.segment import Piece

_MAX_EXTENTS: Final = 1 << 20
_MAX_PARTS: Final = 1 << 12
_START: Final = attrgetter("start")


class FilePart(NamedTuple):
    """Consecutive bytes of a file, on a disk or in a hole."""

    start: int
    """Offset in the file."""
    length: int
    disk: int | None
    """Index of the disk in its point; None for a hole."""
    offset: int
    """Offset on the disk."""


@dataclass(frozen=True, slots=True)
class GuestContent:
    """A regular file: its extents, and its parts if it has no bytes that only its engine reads."""

    size: int
    volume: Volume
    extents: Sequence[FileExtent]
    on_disks: Sequence[FilePart] | None
    """Contiguous from 0 to the end; None if only read() of the engine has a byte."""

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Yield the locations of the bytes [offset, offset + length) that are on disks."""
        parts = self.on_disks or ()
        end = offset + length
        for part in parts[max(bisect_right(parts, offset, key=_START) - 1, 0) :]:
            if part.start >= end:
                break
            start, stop = max(part.start, offset), min(part.start + part.length, end)
            if part.disk is not None and start < stop:
                yield Piece(part.disk, part.offset + start - part.start, stop - start)

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
    return GuestContent(entry.size, file.volume, extents, _on_disks(file, extents, disks))


def _on_disks(
    file: File, extents: Sequence[FileExtent], disks: Sequence[Disk]
) -> Sequence[FilePart] | None:
    """Return the parts of a file; None if some are elsewhere, or if there are very many."""
    parts: list[FilePart] = []
    at, size = 0, file.entry.size
    for extent in extents:
        if extent.start >= size:  # Blocks that are reserved beyond the end of the file.
            break
        if extent.start < at or extent.offset is None or len(parts) > _MAX_PARTS:
            return None
        if extent.start > at:
            parts.append(FilePart(at, extent.start - at, None, 0))
        at, end = extent.start, min(extent.end, size)
        for disk, offset, length in _places(file.volume, extent.offset, end - at, disks):
            parts.append(FilePart(at, length, disk, offset))
            at += length
        if at < end:
            return None
    if at < size:
        parts.append(FilePart(at, size - at, None, 0))
    return parts or None


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
