"""Retention policies: the points that a policy keeps, and the rule that keeps each."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from cbtfs.core.ids import PointId


@dataclass(frozen=True, slots=True)
class Candidate:
    """Facts about a point that a policy decides by."""

    point: PointId
    time: datetime
    order: int
    tags: tuple[str, ...] = ()
    is_protected: bool = False
    is_damaged: bool = False
    overlays: tuple[str, ...] = ()
    """Names of the overlays that need the point."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of retention. A count of n keeps the newest point of each of the n newest periods."""

    last: int = 0
    """Number of points to keep, in order of capture."""
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    """Maximum age relative to the point captured last. The clock is not used."""
    tags: frozenset[str] = frozenset()
    min_age: timedelta = field(default_factory=timedelta)
    """Age, by the clock, below which every point is kept."""
    zone: tzinfo = UTC
    """Time zone in which hours, days, weeks, months and years begin."""

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.counts.values()):
            raise ValueError("a number of points to keep is negative")

    @property
    def counts(self) -> dict[str, int]:
        return {
            "last": self.last,
            "hourly": self.hourly,
            "daily": self.daily,
            "weekly": self.weekly,
            "monthly": self.monthly,
            "yearly": self.yearly,
        }

    @property
    def keeps_nothing(self) -> bool:
        """Whether the policy has no rule."""
        return not (any(self.counts.values()) or self.within is not None or self.tags)


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision on a point. *reasons* are the rules that keep it; it is forgotten without any."""

    point: PointId
    reasons: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        return bool(self.reasons)


Period = Callable[[datetime], str]

_PERIODS: Final[dict[str, Period]] = {
    "hourly": lambda at: at.strftime("%Y-%m-%d %H:00 %z"),
    "daily": lambda at: at.date().isoformat(),
    "weekly": lambda at: "{}-W{:02}".format(*at.isocalendar()[:2]),
    "monthly": lambda at: at.date().isoformat()[:7],
    "yearly": lambda at: at.date().isoformat()[:4],
}


def decide(policy: Policy, candidates: Iterable[Candidate], now: datetime) -> list[Decision]:
    """Return the decisions of *policy* on the points of one VM, newest first.

    Protected points, and points that overlays need, are kept and count like the others. Damaged
    points are kept and do not count; they are forgotten only by name. The newest point is kept if
    no rule keeps any. The point captured last is always kept: a wrong clock may have given an
    earlier point a later time.
    """
    newest_first = sorted(candidates, key=lambda point: (point.time, point.order), reverse=True)
    reasons: dict[PointId, list[str]] = {candidate.point: [] for candidate in newest_first}
    whole = [candidate for candidate in newest_first if not candidate.is_damaged]
    last = max(whole, key=lambda candidate: candidate.order, default=None)
    for candidate in newest_first:
        reasons[candidate.point] += _own_reasons(policy, candidate, last, now)
    for candidate, reason in _by_count(policy, whole):
        reasons[candidate.point].append(reason)
    if whole and not any(reasons[candidate.point] for candidate in whole):
        reasons[whole[0].point].append("the newest of its VM")
    if last is not None and not reasons[last.point]:
        reasons[last.point].append("captured last")
    return [Decision(item.point, tuple(reasons[item.point])) for item in newest_first]


def _own_reasons(
    policy: Policy, candidate: Candidate, last: Candidate | None, now: datetime
) -> list[str]:
    """Return the rules that keep a point regardless of the other points."""
    reasons = []
    if candidate.is_protected:
        reasons.append("protected")
    reasons += [f"overlay {name}" for name in candidate.overlays]
    if candidate.is_damaged:
        reasons.append("damaged: forget it by its id")
    if policy.min_age and now - candidate.time < policy.min_age:
        reasons.append("younger than the minimum age")
    if policy.within is not None and last and candidate.time >= last.time - policy.within:
        reasons.append("within")
    reasons += [f"tag {tag}" for tag in candidate.tags if tag in policy.tags]
    return reasons


def _by_count(policy: Policy, whole: Sequence[Candidate]) -> Iterable[tuple[Candidate, str]]:
    """Yield the points that a count keeps, with the rule."""
    by_capture = sorted(whole, key=lambda candidate: candidate.order, reverse=True)
    for number, candidate in enumerate(by_capture[: policy.last], 1):
        yield candidate, f"last {number} of {policy.last}"
    for rule, period_of in _PERIODS.items():
        periods = set[str]()
        for candidate in whole:
            period = period_of(candidate.time.astimezone(policy.zone))
            if period not in periods and len(periods) < policy.counts[rule]:
                periods.add(period)
                yield candidate, f"{rule} {period}"
