"""A row of the table: a measurement, its contenders, and whether its goals are met."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

OURS: Final = "cbtfs"
BEFORE: Final = "before"
"""Name of the other version of cbtfs that is measured in the same run."""

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """Minimum ratio of cbtfs to *peer*; without a peer, a bound for the figure of cbtfs."""

    bound: float
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Position of a row in a plot."""

    figure: Literal["reads", "scale"]
    panel: str
    """Set of axes; the rows of a panel form one line per contender, or one line in total."""
    at: Mapping[str, float]
    """Horizontal position of each contender."""


@dataclass(frozen=True, slots=True)
class Row:
    """Samples of every contender, taken alternately."""

    name: str
    unit: str
    is_higher_better: bool
    cache: str
    """State of the caches, as text."""
    samples: Mapping[str, Sequence[float]]
    goals: Sequence[Goal] = ()
    note: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Additional figures of the measurement."""
    curve: Curve | None = None

    def median(self, contender: str) -> float:
        return median(self.samples[contender])

    def spread(self, contender: str) -> float:
        """Return (largest - smallest) / median of a contender."""
        samples = self.samples[contender]
        middle = median(samples)
        return (max(samples) - min(samples)) / middle if middle else 0.0

    def ratio(self, peer: str) -> float:
        """Return the ratio of cbtfs to *peer*: a value above 1 favours cbtfs."""
        ours, theirs = self.median(OURS), self.median(peer)
        if not self.is_higher_better:
            ours, theirs = theirs, ours
        return ours / theirs if theirs else float("inf")

    def is_met(self, goal: Goal) -> bool:
        if goal.peer is not None:
            return self.ratio(goal.peer) >= goal.bound
        ours = self.median(OURS)
        return ours >= goal.bound if self.is_higher_better else ours <= goal.bound

    @property
    def result(self) -> Literal["met", "missed", ""]:
        """Whether all goals are met; empty if the row has no goal."""
        if not self.goals:
            return ""
        return "met" if all(map(self.is_met, self.goals)) else "missed"


def alternate(contenders: Mapping[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Take samples of the contenders alternately; the first one changes with each round."""
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(contenders[name]())
    return samples
