"""The versions of one file over the points of a VM.

A point is looked at, which means to open its file system, only if bytes changed that decide what
the file is: its inode, the directories of its path, the blocks of its map. The caller collects
these bytes while it looks. All other points cost a difference of block maps within these areas.
"""

import hashlib
import struct
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from cbtfs.core.extent import Extent, between, coalesce

_COMPARED: Final = 1 << 20
"""Bytes that are read at once."""
_UNIT: Final = 4096
"""Bytes that are hashed at once; those of zeros are left out."""
_UNIT_HEADER: Final = struct.Struct(">qH")


class Part(NamedTuple):
    """A part of a file that is not a hole."""

    start: int
    """Offset in the file."""
    length: int
    offset: int
    """Offset on the volume."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file at one point."""

    state: Hashable
    """Its entry; None if no file has the path."""
    structure: tuple[Extent, ...]
    """Bytes of the volume that decide *state* and *parts*."""
    parts: tuple[Part, ...] = ()
    """The content: ascending and disjoint."""
    digest: bytes | None = None
    """Result of content_digest() if the places of the content on the volume are not known."""


class Points(Protocol):
    """The points of a VM, numbered from the oldest, and one of their volumes."""

    def __len__(self) -> int:
        """Return the number of points."""

    def look(self, number: int) -> Sighting:
        """Return the file at a point.

        If the bytes of *structure* are equal at another point, so are *state* and *parts*.

        Raises:
            CbtfsError: the file system cannot be read.
        """

    def differing(self, left: int, right: int, extent: Extent) -> Iterable[Extent]:
        """Yield the parts of *extent* on the volume that may differ between two points."""

    def read(self, number: int, extent: Extent) -> bytes | memoryview:
        """Return bytes of the volume at a point."""


@dataclass(frozen=True, slots=True)
class Version:
    """Consecutive points at which a file is the same."""

    first: int
    last: int
    sighting: Sighting


def versions(points: Points) -> Iterator[Version]:
    """Yield the versions of a file from the oldest point to the newest, absences included.

    Two versions differ in their state or their content. Equal to a comparison of all points, each
    opened; the number of looks is at most one more than the number of points at which the bytes of
    the structure changed.

    Raises:
        CbtfsError: a point cannot be read.
    """
    first, sighting = 0, None
    for number in range(len(points)):
        if sighting is None:
            sighting = points.look(number)
            continue
        before = number - 1
        following = sighting
        if _is_changed(points, before, number, sighting.structure):
            following = points.look(number)
        if not _is_same(points, (before, sighting), (number, following)):
            yield Version(first, before, sighting)
            first = number
        sighting = following
    if sighting is not None:
        yield Version(first, len(points) - 1, sighting)


def _is_changed(points: Points, left: int, right: int, extents: Iterable[Extent]) -> bool:
    """Return True if a byte of *extents* differs between two points."""
    return any(
        points.read(left, part) != points.read(right, part)
        for extent in coalesce(extents)
        for area in points.differing(left, right, extent)
        for part in _cut(area)
    )


def _cut(extent: Extent) -> Iterator[Extent]:
    """Yield an extent in pieces that fit into memory."""
    for start in range(extent.start, extent.end, _COMPARED):
        yield from between(start, min(start + _COMPARED, extent.end))


def _is_same(points: Points, left: tuple[int, Sighting], right: tuple[int, Sighting]) -> bool:
    """Return True if two sightings have the same state and content."""
    (earlier, ours), (later, theirs) = left, right
    if ours.state != theirs.state:
        return False
    if ours.digest is not None or theirs.digest is not None:
        return _digest(points, *left) == _digest(points, *right)
    if ours.parts == theirs.parts:
        own = (Extent(part.offset, part.length) for part in ours.parts)
        return not _is_changed(points, earlier, later, own)
    return all(
        _is_equal(points, (earlier, start_ours), (later, start_theirs), length)
        for start_ours, start_theirs, length in _pairs(ours.parts, theirs.parts)
    )


def _digest(points: Points, number: int, sighting: Sighting) -> bytes:
    """Return the digest of a content, which is read if its places are known."""
    if sighting.digest is not None:
        return sighting.digest
    return content_digest(
        (part.start + piece.start - part.offset, points.read(number, piece))
        for part in sighting.parts
        for piece in _cut(Extent(part.offset, part.length))
    )


def content_digest(pieces: Iterable[tuple[int, bytes | memoryview]]) -> bytes:
    """Return the SHA-256 of the content of a file, equal however it is cut and whatever is a hole.

    *pieces*: offset in the file and bytes of each piece that is not a hole, ascending.
    """
    digest = hashlib.sha256()

    def add(number: int, unit: bytearray) -> None:
        if data := unit.rstrip(b"\0"):
            digest.update(_UNIT_HEADER.pack(number, len(data)) + data)

    current, unit = -1, bytearray()
    for start, data in pieces:
        at = 0
        while at < len(data):
            number, within = divmod(start + at, _UNIT)
            if number != current:
                add(current, unit)
                current, unit = number, bytearray(_UNIT)
            count = min(_UNIT - within, len(data) - at)
            unit[within : within + count] = data[at : at + count]
            at += count
    add(current, unit)
    return digest.digest()


def _pairs(
    ours: Sequence[Part], theirs: Sequence[Part]
) -> Iterator[tuple[int | None, int | None, int]]:
    """Yield the offsets on the volume, None for a hole, of each piece of a file, and its length."""
    bounds = {edge for part in (*ours, *theirs) for edge in (part.start, part.start + part.length)}
    edges = sorted(bounds)
    left_places, right_places = _places(ours, edges), _places(theirs, edges)
    for (at, end), left, right in zip(pairwise(edges), left_places, right_places, strict=False):
        if left is not None or right is not None:
            yield left, right, end - at


def _places(parts: Sequence[Part], edges: Sequence[int]) -> Iterator[int | None]:
    """Yield the offset on the volume of the byte at each edge."""
    remaining = iter(parts)
    part = next(remaining, None)
    for edge in edges:
        while part is not None and part.start + part.length <= edge:
            part = next(remaining, None)
        inside = part is not None and part.start <= edge
        yield part.offset + edge - part.start if part is not None and inside else None


def _is_equal(
    points: Points, left: tuple[int, int | None], right: tuple[int, int | None], length: int
) -> bool:
    """Return True if a piece has the same bytes at two points; a hole is zeros."""
    (earlier, ours), (later, theirs) = left, right
    if ours == theirs and ours is not None:
        return not _is_changed(points, earlier, later, between(ours, ours + length))
    for at in range(0, length, _COMPARED):
        count = min(_COMPARED, length - at)
        pieces = [
            bytes(count) if offset is None else points.read(number, Extent(offset + at, count))
            for number, offset in ((earlier, ours), (later, theirs))
        ]
        if pieces[0] != pieces[1]:
            return False
    return True
