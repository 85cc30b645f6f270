"""Byte ranges of a disk and their arithmetic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


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
    """Yield the extent [start, end), or nothing where it would be empty."""
    if start < end:
        yield Extent(start, end - start)


def coalesce(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield the same bytes as ascending extents with a gap between each two."""
    pending: Extent | None = None
    for extent in sorted(extents):
        if pending is None:
            pending = extent
        elif extent.start <= pending.end:
            pending = Extent(pending.start, max(pending.end, extent.end) - pending.start)
        else:
            yield pending
            pending = extent
    if pending is not None:
        yield pending


def clip(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Yield the parts of *extents* that lie within [start, end)."""
    for extent in extents:
        yield from between(max(extent.start, start), min(extent.end, end))


def complement(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Yield the bytes of [0, size) that no extent covers, ascending."""
    at = 0
    for extent in coalesce(extents):
        yield from between(at, min(extent.start, size))
        at = max(at, extent.end)
    yield from between(at, size)


def intersect(left: Iterable[Extent], right: Iterable[Extent]) -> Iterator[Extent]:
    """Yield the bytes that both sides cover, ascending."""
    ours, theirs = list(coalesce(left)), list(coalesce(right))
    i = j = 0
    while i < len(ours) and j < len(theirs):
        a, b = ours[i], theirs[j]
        yield from between(max(a.start, b.start), min(a.end, b.end))
        if a.end <= b.end:
            i += 1
        else:
            j += 1


def widen(extents: Iterable[Extent], unit: int, size: int) -> Iterator[Extent]:
    """Yield *extents* grown to whole units of *unit* bytes, none beyond *size*, ascending."""
    return clip(coalesce(_widened(extent, unit) for extent in extents), 0, size)


def _widened(extent: Extent, unit: int) -> Extent:
    start = extent.start // unit * unit
    return Extent(start, -(-extent.end // unit) * unit - start)


def total(extents: Sequence[Extent]) -> int:
    """Bytes that disjoint *extents* cover."""
    return sum(extent.length for extent in extents)
