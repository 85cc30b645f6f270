"""Which parts of the data were found right, and when: parts 1/n to n/n add up to a verification.

What is kept for each point does not depend on the clock: a point that came after a part was read
is not proven by it. A prune that moves objects from a part to another one verifies them.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cbtfs.core.fields import Document, ids, integer, integers, items, moment
from cbtfs.core.ids import PointId
from cbtfs.core.moment import parse_moment
from cbtfs.core.sealed import MAX_BYTES, seal, unseal
from cbtfs.errors import DataCorrupt
from cbtfs.store.files import load_file, replace, storing

PROVEN: Final = "verified"
_MAX_PARTS: Final = 9999

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proven:
    """What is known of parts 1 to *parts*; one that was never read has no time."""

    parts: int
    times: Mapping[int, str] = field(default_factory=dict)
    points: Mapping[PointId, frozenset[int]] = field(default_factory=dict)
    """For each point the parts in which all that it needs was right when they were last read."""

    def __post_init__(self) -> None:
        known = range(1, self.parts + 1)
        named = {*self.times}.union(*self.points.values())
        if not 1 <= self.parts <= _MAX_PARTS or not all(each in known for each in named):
            raise ValueError(f"not parts of {self.parts}")
        if not named <= self.times.keys():
            raise ValueError("a part was found right, but nobody knows when")

    def after(
        self, part: int, time: str, points: Collection[PointId], whole: Collection[PointId]
    ) -> "Proven":
        """What is known once *part* was read at *time*, when *points* in *whole* were right.

        Points that are not in *points* are gone.
        """
        found = {}
        for point in points:
            before = self.points.get(point, frozenset())
            found[point] = before | {part} if point in whole else before - {part}
        return Proven(self.parts, {**self.times, part: time}, found)

    def verified(self) -> dict[PointId, str]:
        """Points of which every part was right, each with the time since when all were read."""
        if len(self.times) < self.parts:
            return {}
        oldest = min(self.times.values(), key=parse_moment)
        return {p: oldest for p, parts in self.points.items() if len(parts) == self.parts}


def load_proven(path: Path, parts: int) -> Proven:
    """What the repository at *path* knows of so many parts; nothing if it knows of other ones."""
    try:
        document = unseal(load_file(path / PROVEN, MAX_BYTES))
        if integer(document, "parts") != parts:
            return Proven(parts)
        return Proven(parts, _times(document), _points(document))
    except FileNotFoundError:
        return Proven(parts)
    except (OSError, ValueError, DataCorrupt) as exc:
        log.warning("the file %s is damaged (%s): the parts are counted from anew", PROVEN, exc)
        return Proven(parts)


def _times(document: Document) -> dict[int, str]:
    return {integer(each, "part"): moment(each, "time") for each in items(document, "times")}


def _points(document: Document) -> dict[PointId, frozenset[int]]:
    found = dict[PointId, frozenset[int]]()
    for each in items(document, "points"):
        parts = frozenset(integers(each, "parts"))
        found.update((PointId(point), parts) for point in ids(each, "ids"))
    return found


def save_proven(path: Path, proven: Proven) -> None:
    """Keep what is known; StoreFailed if it cannot be. Only for the one writer."""
    alike = defaultdict(list)
    for point, parts in sorted(proven.points.items()):
        if parts:
            alike[parts].append(point)
    document = {
        "parts": proven.parts,
        "times": [{"part": part, "time": at} for part, at in sorted(proven.times.items())],
        "points": [{"parts": sorted(parts), "ids": them} for parts, them in alike.items()],
    }
    with storing("what was verified"):
        replace(path / PROVEN, seal(document))
