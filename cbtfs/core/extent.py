"""Byte ranges of a disk and their arithmetic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

_START: Final = attrgetter("start")


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """The half-open byte range [start, end) of a virtual disk."""

    start: int
    length: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.length <= 0:
            raise ValueError(f"not an extent: start {self.start}, length {self.length}")

    @property
    def end(self) -> int:
        return self.start + self.length


def between(start: int, end: int) -> Iterator[Extent]:
    """Yield the extent [start, end), or nothing if it is empty."""
    if start < end:
        yield Extent(start, end - start)


def coalesce(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield the same bytes as ascending extents with gaps between them."""
    start = end = -1
    for extent in sorted(extents, key=_START):
        if extent.start > end:
            if start >= 0:
                yield Extent(start, end - start)
            start = extent.start
            end = start + extent.length
        else:
            end = max(end, extent.start + extent.length)
    if start >= 0:
        yield Extent(start, end - start)


def clip(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Yield the parts of *extents* that lie within [start, end)."""
    for extent in extents:
        first, last = max(extent.start, start), min(extent.start + extent.length, end)
        if first < last:
            yield Extent(first, last - first)


def complement(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Yield the bytes of [0, size) that no extent covers, ascending."""
    at = 0
    for extent in coalesce(extents):
        if at < (start := min(extent.start, size)):
            yield Extent(at, start - at)
        at = extent.start + extent.length
    yield from between(at, size)


def intersect(left: Iterable[Extent], right: Iterable[Extent]) -> Iterator[Extent]:
    """Yield the bytes that both sides cover, ascending."""
    ours, theirs = list(coalesce(left)), list(coalesce(right))
    i = j = 0
    while i < len(ours) and j < len(theirs):
        a, b = ours[i], theirs[j]
        a_end, b_end = a.start + a.length, b.start + b.length
        start, end = max(a.start, b.start), min(a_end, b_end)
        if start < end:
            yield Extent(start, end - start)
        if a_end <= b_end:
            i += 1
        else:
            j += 1


def widen(extents: Iterable[Extent], unit: int, size: int) -> Iterator[Extent]:
    """Yield *extents* rounded out to units of *unit* bytes and clipped to *size*, ascending."""
    return clip(coalesce(_widened(extent, unit) for extent in extents), 0, size)


def _widened(extent: Extent, unit: int) -> Extent:
    start = extent.start // unit * unit
    return Extent(start, -(-extent.end // unit) * unit - start)


def total(extents: Sequence[Extent]) -> int:
    """Return the number of bytes that disjoint *extents* cover."""
    return sum(extent.length for extent in extents)
