"""Comparison of the contents of two files of guests, in which equal blocks are not read."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from cbtfs.core.extent import Extent, intersect
from cbtfs.errors import ChunkMissing
from cbtfs.files.protocol import MAX_READ_BYTES, FileExtent
from cbtfs.files.tree import File

_HOLE: Final = -1
_INSIDE: Final = -2
"""Offset of a part that only the engine can read."""


def has_same_content(left: File, right: File, areas: Sequence[Extent] | None) -> bool:
    """Return True if two regular files have the same bytes.

    *areas*: the parts of the volume in which the points differ; None if the files are on volumes
    that cannot be compared, so that their contents are read.

    Raises:
        CbtfsError: a part cannot be read.
    """
    if left.entry.size != right.entry.size:
        return False
    ours, theirs = list(left.extents()), list(right.extents())
    for part, left_at, right_at in _pieces(ours, theirs):
        parts = [part]
        if areas is not None and left_at == right_at >= 0:
            place = Extent(left_at, part.length)
            shift = part.start - left_at
            parts = [Extent(e.start + shift, e.length) for e in intersect([place], areas)]
        if not all(
            _read(left, piece, _moved(left_at, piece.start - part.start))
            == _read(right, piece, _moved(right_at, piece.start - part.start))
            for extent in parts
            for piece in _cut(extent)
        ):
            return False
    return True


def _moved(place: int, by: int) -> int:
    return place + by if place >= 0 else place


def _cut(extent: Extent) -> Iterator[Extent]:
    for start in range(extent.start, extent.end, MAX_READ_BYTES):
        yield Extent(start, min(MAX_READ_BYTES, extent.end - start))


def _pieces(
    ours: Sequence[FileExtent], theirs: Sequence[FileExtent]
) -> Iterator[tuple[Extent, int, int]]:
    """Yield the parts of a file that are not holes in both, each with its place on both sides."""
    edges = sorted({edge for part in (*ours, *theirs) for edge in (part.start, part.end)})
    left, right = _places(ours, edges), _places(theirs, edges)
    for (at, end), left_at, right_at in zip(pairwise(edges), left, right, strict=False):
        if left_at != _HOLE or right_at != _HOLE:
            yield Extent(at, end - at), left_at, right_at


def _places(parts: Sequence[FileExtent], edges: Sequence[int]) -> Iterator[int]:
    """Yield the place on the volume of the byte at each edge."""
    remaining = iter(parts)
    part = next(remaining, None)
    for edge in edges:
        while part is not None and part.end <= edge:
            part = next(remaining, None)
        if part is None or part.start > edge:
            yield _HOLE
        elif part.offset is None:
            yield _INSIDE
        else:
            yield part.offset + edge - part.start


def _read(file: File, piece: Extent, place: int) -> bytes | memoryview:
    if place == _HOLE:
        return bytes(piece.length)
    if place == _INSIDE:
        data: bytes | memoryview = file.file_system.read(file.inner, piece.start, piece.length)
    else:
        data = file.volume.source.read(place, piece.length)
    if len(data) < piece.length:
        raise ChunkMissing(f"{file.path}: the file is shorter than its directory states")
    return data
