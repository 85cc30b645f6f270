"""Selection of a VM's point by time and order of capture.

Time and order of capture differ after a wrong clock and after the import of an older image. The
rules are in docs/commands.md. Tests compare each rule with a linear search.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from cbtfs.core.ids import PointId


class Dated(NamedTuple):
    """One point of a VM with its order of capture and its time."""

    point: PointId
    order: int
    """A larger number was captured later."""
    time: datetime
    is_clocked: bool = True
    """Whether the time comes from a clock and not from the user."""

    @property
    def age(self) -> tuple[datetime, int]:
        """Sort key: time, then order of capture."""
        return self.time, self.order


_order = attrgetter("order")
_age = attrgetter("age")


def latest(points: Iterable[Dated]) -> Dated | None:
    """Return the point that `latest` means; None without points.

    It is the clocked point captured last, or the newest of the others if its time is later or no
    point is clocked. So an imported older image does not change it, and a capture under a wrong
    clock changes it only until the next capture.
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
    """Return the point that is *back* points older than the latest, by time, or None."""
    start = latest(points)
    if start is None:
        return None
    older = sorted((point for point in points if point.age <= start.age), key=_age)
    return older[-1 - back] if back < len(older) else None


def newest_until(points: Iterable[Dated], last: datetime) -> Dated | None:
    """Return the newest point whose time is not later than *last*, or None."""
    return max((point for point in points if point.time <= last), key=_age, default=None)


def latest_good(points: Iterable[Dated], is_good: Callable[[Dated], bool]) -> Dated | None:
    """Return latest() of the good points, or None.

    *is_good* is called for as few points as possible, because it reads a manifest.
    """
    candidates = list(points)
    clocked = sorted((p for p in candidates if p.is_clocked), key=_order, reverse=True)
    given = sorted((p for p in candidates if not p.is_clocked), key=_age, reverse=True)
    first = (next(filter(is_good, group), None) for group in (clocked, given))
    return latest(point for point in first if point is not None)


def nearest(points: Iterable[Dated], moment: datetime) -> Dated | None:
    """Return the point whose time is closest to *moment*, or None."""
    return min(points, key=lambda point: (abs(point.time - moment), point.age), default=None)


def out_of_order(points: Iterable[Dated]) -> set[PointId]:
    """Return the smallest set of points without which time follows the order of capture.

    Of several such sets it is the one that leaves the most clocked points, then the one that leaves
    the points captured last and, among the earlier ones, those with the latest time.
    """
    ordered = sorted(points, key=_order)
    heavy = len(ordered) + 1
    times = sorted({point.time for point in ordered})
    # A Fenwick tree over times. An entry is the best chain that ends at or before a time: its
    # weight, the rank of its last time and the index of its last point.
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
