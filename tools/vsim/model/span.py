"""Half-open byte ranges and the little arithmetic that the simulator does with them."""

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
    """The same bytes as ascending spans with a gap between each two."""
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
    """What of *spans* lies inside *bounds*."""
    for span in spans:
        start, end = max(span.start, bounds.start), min(span.end, bounds.end)
        if start < end:
            yield Span(start, end)


def overlaid(left: Sequence[Span], right: Sequence[Span]) -> Iterator[tuple[Span, bool, bool]]:
    """What either covers, in ascending pieces, each with whether *left* and *right* cover it.

    Both are ascending and disjoint.
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
    """What of *holes* is whole units of *unit* bytes; the last unit ends at *size*."""
    for hole in holes:
        start = -(-hole.start // unit) * unit
        end = hole.end if hole.end == size else hole.end // unit * unit
        if start < end:
            yield Span(start, end)


def gaps(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """What of [0, size) lies between *spans*, which are ascending and disjoint."""
    at = 0
    for span in spans:
        if at < span.start:
            yield Span(at, span.start)
        at = span.end
    if at < size:
        yield Span(at, size)


def grains(spans: Iterable[Span], size: int) -> Iterator[int]:
    """Numbers of the *size*-byte grains that *spans* touch; ascending if the spans are."""
    last = -1
    for span in spans:
        first = max(span.start // size, last + 1)
        last = max(last, (span.end - 1) // size)
        yield from range(first, last + 1)
