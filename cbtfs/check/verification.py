"""Verification in parts: the record of parts 1/n to n/n, which add up to a full verification.

The record of a point does not depend on the clock: a part that was read before the point was
committed does not count. A prune that moves objects from one part to another verifies them.
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
from cbtfs.store.backend.layout import load_record, save_record
from cbtfs.store.storing import storing

PARTS_FILE: Final = "verified"
_MAX_PARTS: Final = 9999

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifiedParts:
    """The verification of parts 1 to *parts*; a part that was never read has no time."""

    parts: int
    times: Mapping[int, str] = field(default_factory=dict)
    points: Mapping[PointId, frozenset[int]] = field(default_factory=dict)
    """Parts of each point whose objects were all intact at the last read of the part."""

    def __post_init__(self) -> None:
        known = range(1, self.parts + 1)
        named = {*self.times}.union(*self.points.values())
        if not 1 <= self.parts <= _MAX_PARTS or not all(part in known for part in named):
            raise ValueError(f"a part is not between 1 and {self.parts}")
        if not named <= self.times.keys():
            raise ValueError("a verified part has no time")

    def after(
        self, part: int, time: str, points: Collection[PointId], whole: Collection[PointId]
    ) -> "VerifiedParts":
        """Return the record after *part* was read at *time* and points in *whole* were intact.

        *points* are all points; others are dropped.
        """
        verified = {}
        for point in points:
            before = self.points.get(point, frozenset())
            verified[point] = before | {part} if point in whole else before - {part}
        return VerifiedParts(self.parts, {**self.times, part: time}, verified)

    def verified(self) -> dict[PointId, str]:
        """Return points with every part verified, each with the time of the oldest part."""
        if len(self.times) < self.parts:
            return {}
        oldest = min(self.times.values(), key=parse_moment)
        return {p: oldest for p, parts in self.points.items() if len(parts) == self.parts}


def load_parts(path: Path, parts: int) -> VerifiedParts:
    """Load the record of the repository at *path*; empty if it has another number of parts."""
    try:
        document = unseal(load_record(path, PARTS_FILE, MAX_BYTES))
        if integer(document, "parts") != parts:
            return VerifiedParts(parts)
        return VerifiedParts(parts, _times(document), _points(document))
    except FileNotFoundError:
        return VerifiedParts(parts)
    except (OSError, ValueError, DataCorrupt) as exc:
        log.warning("the file %s is damaged (%s): all parts count as unverified", PARTS_FILE, exc)
        return VerifiedParts(parts)


def _times(document: Document) -> dict[int, str]:
    return {integer(item, "part"): moment(item, "time") for item in items(document, "times")}


def _points(document: Document) -> dict[PointId, frozenset[int]]:
    verified = dict[PointId, frozenset[int]]()
    for item in items(document, "points"):
        parts = frozenset(integers(item, "parts"))
        verified.update((PointId(point), parts) for point in ids(item, "ids"))
    return verified


def save_parts(path: Path, record: VerifiedParts) -> None:
    """Save the record; StoreFailed if that fails. Only for the writer."""
    grouped = defaultdict(list)
    for point, parts in sorted(record.points.items()):
        if parts:
            grouped[parts].append(point)
    document = {
        "parts": record.parts,
        "times": [{"part": part, "time": at} for part, at in sorted(record.times.items())],
        "points": [{"parts": sorted(parts), "ids": points} for parts, points in grouped.items()],
    }
    with storing("the record of verified parts"):
        save_record(path, PARTS_FILE, seal(document))
