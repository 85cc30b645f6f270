"""Half-open byte ranges and the little arithmetic that the simulator does with them."""

from collections.abc import Iterable, Iterator
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


def gaps(spans: Iterable[Span], bounds: Span) -> Iterator[Span]:
    """What of *bounds* none of *spans* covers."""
    position = bounds.start
    for span in clipped(merged(spans), bounds):
        if span.start > position:
            yield Span(position, span.start)
        position = span.end
    if position < bounds.end:
        yield Span(position, bounds.end)


def grains(spans: Iterable[Span], size: int) -> Iterator[int]:
    """Numbers of the *size*-byte grains that *spans* touch; ascending if the spans are."""
    last = -1
    for span in spans:
        first = max(span.start // size, last + 1)
        last = max(last, (span.end - 1) // size)
        yield from range(first, last + 1)
