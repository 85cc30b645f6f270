"""Slices: files that consist of parts of disks."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """Consecutive bytes of one disk."""

    disk: int
    """Index of the disk in its point."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Area:
    """The first byte of a range of a disk."""

    disk: int
    offset: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes [start, start + length) of a slice, on one area or striped over several."""

    start: int
    length: int
    areas: tuple[Area, ...]
    stripe_bytes: int
    """Bytes on one area before the next area continues; *length* if there is one area."""

    def __post_init__(self) -> None:
        if self.start < 0 or self.length <= 0 or self.stripe_bytes <= 0 or not self.areas:
            raise ValueError("not a segment")

    @property
    def end(self) -> int:
        return self.start + self.length

    def piece(self, offset: int, length: int) -> Piece:
        """Return the location of the byte at *offset* of the slice, and of those that follow it.

        The piece has at least one byte and at most *length*.
        """
        within = offset - self.start
        length = min(length, self.length - within)
        if len(self.areas) == 1:
            (area,) = self.areas
            return Piece(area.disk, area.offset + within, length)
        stripe, rest = divmod(within, self.stripe_bytes)
        row, column = divmod(stripe, len(self.areas))
        area = self.areas[column]
        offset = area.offset + row * self.stripe_bytes + rest
        return Piece(area.disk, offset, min(length, self.stripe_bytes - rest))


@dataclass(frozen=True, slots=True)
class Slice:
    """A partition or a logical volume. Its segments are contiguous and start at 0."""

    path: tuple[str, ...]
    """Directories and file name below `slices`."""
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return self.segments[-1].end

    @property
    def disks(self) -> set[int]:
        """Indexes of the disks that have bytes of the slice."""
        return {area.disk for segment in self.segments for area in segment.areas}

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Yield the locations of the bytes [offset, offset + length), fewer at the end."""
        end = min(offset + length, self.size)
        number = bisect_right(self.segments, offset, key=_start) - 1
        while offset < end:
            segment = self.segments[number]
            if offset >= segment.end:
                number += 1
                continue
            piece = segment.piece(offset, end - offset)
            yield piece
            offset += piece.length


def _start(segment: Segment) -> int:
    return segment.start
