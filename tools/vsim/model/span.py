"""Half-open byte ranges, and operations on sequences of ranges."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """The half-open byte range [start, end)."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Return the union of the spans, as ascending spans with gaps between them."""
    pending: Span | None = None
    for span in sorted(spans):
        if pending is None:
            pending = span
        elif span.start <= pending.end:
            pending = Span(pending.start, max(pending.end, span.end))
        else:
            yield pending
            pending = span
    if pending is not None:
        yield pending


def clipped(spans: Iterable[Span], bounds: Span) -> Iterator[Span]:
    """Return the intersection of *spans* and *bounds*."""
    for span in spans:
        start, end = max(span.start, bounds.start), min(span.end, bounds.end)
        if start < end:
            yield Span(start, end)


def overlaid(left: Sequence[Span], right: Sequence[Span]) -> Iterator[tuple[Span, bool, bool]]:
    """Return the union of *left* and *right* as ascending pieces.

    Each piece comes with two flags: whether *left* and whether *right* covers it. Both inputs
    must be ascending and disjoint.
    """
    edges = sorted({edge for span in (*left, *right) for edge in span})
    at_left = at_right = 0
    for start, end in pairwise(edges):
        while at_left < len(left) and left[at_left].end <= start:
            at_left += 1
        while at_right < len(right) and right[at_right].end <= start:
            at_right += 1
        in_left = at_left < len(left) and left[at_left].start <= start
        in_right = at_right < len(right) and right[at_right].start <= start
        if in_left or in_right:
            yield Span(start, end), in_left, in_right


def whole_units(holes: Iterable[Span], unit: int, size: int) -> Iterator[Span]:
    """Return the whole units of *unit* bytes inside *holes*; the last unit ends at *size*."""
    for hole in holes:
        start = -(-hole.start // unit) * unit
        end = hole.end if hole.end == size else hole.end // unit * unit
        if start < end:
            yield Span(start, end)


def gaps(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """Return the gaps of [0, size) between *spans*, which must be ascending and disjoint."""
    at = 0
    for span in spans:
        if at < span.start:
            yield Span(at, span.start)
        at = span.end
    if at < size:
        yield Span(at, size)


def grains(spans: Iterable[Span], size: int) -> Iterator[int]:
    """Return the numbers of the *size*-byte grains that *spans* touch, in the order of *spans*."""
    last = -1
    for span in spans:
        first = max(span.start // size, last + 1)
        last = max(last, (span.end - 1) // size)
        yield from range(first, last + 1)
