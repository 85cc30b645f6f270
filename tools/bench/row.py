"""One line of the table: what was measured, of whom, and whether the goal is met."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

OURS: Final = "cbtfs"
BEFORE: Final = "before"
"""Another version of cbtfs, measured beside this one."""

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours must be so many times as good as *peer*; without a peer, *bound* is for ours alone."""

    bound: float
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Where a row stands in a plot."""

    figure: Literal["reads", "scale"]
    panel: str
    """One set of axes; rows of one panel make one line for each contender, or one in all."""
    at: Mapping[str, float]
    """How far to the right each contender is."""


@dataclass(frozen=True, slots=True)
class Row:
    """Samples of every contender, taken in turns."""

    name: str
    unit: str
    is_more_better: bool
    cache: str
    """The state of caches, in words."""
    samples: Mapping[str, Sequence[float]]
    goals: Sequence[Goal] = ()
    note: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that came with it."""
    curve: Curve | None = None

    def median(self, contender: str) -> float:
        return median(self.samples[contender])

    def spread(self, contender: str) -> float:
        """How far apart the extremes are, in parts of the median."""
        found = self.samples[contender]
        middle = median(found)
        return (max(found) - min(found)) / middle if middle else 0.0

    def ratio(self, peer: str) -> float:
        """How many times as good as *peer* ours is: above 1 is better."""
        ours, theirs = self.median(OURS), self.median(peer)
        if not self.is_more_better:
            ours, theirs = theirs, ours
        return ours / theirs if theirs else float("inf")

    def is_met(self, goal: Goal) -> bool:
        if goal.peer is not None:
            return self.ratio(goal.peer) >= goal.bound
        ours = self.median(OURS)
        return ours >= goal.bound if self.is_more_better else ours <= goal.bound

    @property
    def verdict(self) -> Literal["met", "missed", ""]:
        """Whether all goals are met; nothing where there is none."""
        if not self.goals:
            return ""
        return "met" if all(map(self.is_met, self.goals)) else "missed"


def in_turns(contenders: Mapping[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Samples of each, taken alternately; who begins changes from round to round."""
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(contenders[name]())
    return samples
