"""The binary search of `cbtfs bisect`: which point to test next. Pure."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Literal

Result = Literal["good", "bad", "skip"]


@dataclass(frozen=True, slots=True)
class Search:
    """Indexes of points in order of capture: the change is after *good*, and at or before *bad*."""

    good: int
    """The last point known to be good."""
    bad: int
    """The first point known to be bad."""
    skipped: Set[int] = frozenset()
    """Points that cannot be tested."""

    def __post_init__(self) -> None:
        if not 0 <= self.good < self.bad:
            raise ValueError(f"the good end {self.good} is not before the bad end {self.bad}")

    @property
    def untested(self) -> list[int]:
        """Points between the ends that can be tested."""
        return [i for i in range(self.good + 1, self.bad) if i not in self.skipped]

    @property
    def candidates(self) -> list[int]:
        """Points that can be the first bad one; the last of them is bad."""
        return list(range(self.good + 1, self.bad + 1))

    def next(self) -> int | None:
        """Return the point to test next, or None at the end of the search.

        Without skipped points that is the middle. Around skipped points the search jumps to other
        fractions of the range, because neighbours of a point that cannot be tested often cannot be
        tested either.
        """
        untested = set(self.untested)
        if not untested:
            return None
        width = self.bad - self.good
        for fraction in _fractions(width):
            index = self.good + int(width * fraction)
            if index in untested:
                return index
        return min(untested, key=lambda index: (abs(2 * index - self.good - self.bad), index))

    def after(self, index: int, result: Result) -> "Search":
        """Return the search after a test of the point *index*; it must be between the ends."""
        if not self.good < index < self.bad:
            raise ValueError(f"point {index} is not between {self.good} and {self.bad}")
        if result == "good":
            return Search(index, self.bad, self.skipped)
        if result == "bad":
            return Search(self.good, index, self.skipped)
        return Search(self.good, self.bad, self.skipped | {index})


def _fractions(width: int) -> Iterator[float]:
    """Yield 1/2, 1/4, 3/4, 1/8, 5/8 …: the van der Corput sequence, at most *width* terms."""
    for number in range(1, width + 1):
        fraction, unit = 0.0, 0.5
        while number:
            fraction += unit * (number & 1)
            number >>= 1
            unit /= 2
        yield fraction


def result_of(code: int) -> Result | None:
    """Return the result that an exit code means, as in `git bisect run`; None ends the search."""
    if code == 0:
        return "good"
    if code == 125:
        return "skip"
    return "bad" if 0 < code < 128 else None
