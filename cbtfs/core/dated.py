"""Which of a VM's points a request means, decided from times and the order of capture alone.

Time and order of capture differ where a clock was wrong and where an older image was imported.
The rules are in docs/commands.md; tests hold each against a linear search.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from cbtfs.core.ids import PointId


class Dated(NamedTuple):
    """One point of a VM: when it was captured, and the moment that it shows."""

    point: PointId
    order: int
    """Larger was captured later."""
    time: datetime
    is_clocked: bool = True
    """Whether a clock told the time, not the user."""

    @property
    def age(self) -> tuple[datetime, int]:
        """The key that sorts points by time, those of one moment by order of capture."""
        return self.time, self.order


_order = attrgetter("order")
_age = attrgetter("age")


def latest(points: Iterable[Dated]) -> Dated | None:
    """Return the point that `latest` means; None if there is none.

    It is the point captured last of those timed by a clock, or the newest of the others if that
    one's time is later, or if no clock timed any. So neither an older image that is imported nor
    one capture under a wrong clock moves it for longer than until the next capture.
    """
    clocked: Dated | None = None
    given: Dated | None = None
    for point in points:
        if point.is_clocked:
            clocked = max(clocked or point, point, key=_order)
        else:
            given = max(given or point, point, key=_age)
    if clocked is None or (given is not None and given.time > clocked.time):
        return given
    return clocked


def before_latest(points: Sequence[Dated], back: int) -> Dated | None:
    """Return the point that is *back* points older than the latest, by time; None if none is."""
    start = latest(points)
    if start is None:
        return None
    older = sorted((point for point in points if point.age <= start.age), key=_age)
    return older[-1 - back] if back < len(older) else None


def newest_until(points: Iterable[Dated], last: datetime) -> Dated | None:
    """Return the newest point whose time is not later than *last*; None if there is none."""
    return max((point for point in points if point.time <= last), key=_age, default=None)


def latest_good(points: Iterable[Dated], is_good: Callable[[Dated], bool]) -> Dated | None:
    """Return what latest() would be if there were only the points that are good.

    *is_good* is asked of as few points as decide it, as the answer takes reading a manifest.
    """
    found = list(points)
    clocked = sorted((p for p in found if p.is_clocked), key=_order, reverse=True)
    given = sorted((p for p in found if not p.is_clocked), key=_age, reverse=True)
    first = (next(filter(is_good, each), None) for each in (clocked, given))
    return latest(point for point in first if point is not None)


def nearest(points: Iterable[Dated], moment: datetime) -> Dated | None:
    """Return the point whose time is closest to *moment*; None if there is none."""
    return min(points, key=lambda point: (abs(point.time - moment), point.age), default=None)


def out_of_order(points: Iterable[Dated]) -> set[PointId]:
    """Return the fewest points without which time follows the order of capture.

    Of several such sets it is the one that keeps the most points timed by a clock, then the one
    that keeps points captured last and, before them, those of the latest time.
    """
    ordered = sorted(points, key=_order)
    heavy = len(ordered) + 1
    times = sorted({point.time for point in ordered})
    # A Fenwick tree over times: the best chain that ends at or before each, as its weight, the
    # rank of its last time and the index of its last point.
    tree = [(0, 0, -1)] * (len(times) + 1)
    chains: list[tuple[int, int]] = []
    for index, point in enumerate(ordered):
        rank = bisect_right(times, point.time)
        best, at = tree[0], rank
        while at:
            best = max(best, tree[at])
            at &= at - 1
        weight = best[0] + (heavy if point.is_clocked else 1)
        chains.append((weight, best[2]))
        at = rank
        while at < len(tree):
            tree[at] = max(tree[at], (weight, rank, index))
            at += at & -at
    kept = set[PointId]()
    at = max(range(len(chains)), key=lambda index: (chains[index][0], index), default=-1)
    while at >= 0:
        kept.add(ordered[at].point)
        at = chains[at][1]
    return {point.point for point in ordered} - kept
