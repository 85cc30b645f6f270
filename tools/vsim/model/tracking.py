"""Changed block tracking of one disk: which blocks changed since which change ID.

A change ID is '<epoch>/<sequence>'. The epoch is new whenever tracking starts anew; ids of an older
epoch are useless then. Blocks ever written stay "in use" for ever (vSphere Virtual Disk Development
Kit Programming Guide, "About Changed Block Tracking").
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tools.vsim.model.span import Span, grains


@dataclass(frozen=True, slots=True)
class ChangeMap:
    """The tracking data of a disk at one moment."""

    epoch: str
    sequence: int
    granularity: int
    changed_at: Mapping[int, int]  # block number -> sequence of its last change

    @property
    def change_id(self) -> str:
        return f"{self.epoch}/{self.sequence}"

    def blocks_since(self, sequence: int) -> Iterator[int]:
        """Blocks that changed after *sequence*, ascending."""
        return (block for block in sorted(self.changed_at) if self.changed_at[block] > sequence)


@dataclass(slots=True)
class ChangeTracker:
    """The tracking data of a disk, growing."""

    epoch: str
    granularity: int
    sequence: int = 1
    changed_at: dict[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, epoch: str, granularity: int, in_use: Iterable[Span]) -> "ChangeTracker":
        """Tracking as it begins on a disk that already holds data."""
        return cls(epoch, granularity, 1, dict.fromkeys(grains(in_use, granularity), 1))

    @classmethod
    def resume(cls, past: ChangeMap, epoch: str, sequence: int) -> "ChangeTracker":
        """Tracking as it was at *past*, under *epoch* and *sequence*."""
        return cls(epoch, past.granularity, sequence, dict(past.changed_at))

    def advance(self, changed: Iterable[Span], step: int = 1) -> None:
        """Give *changed*, in any order, the next sequence number."""
        self.sequence += step
        touched = grains(sorted(changed), self.granularity)
        self.changed_at.update(dict.fromkeys(touched, self.sequence))

    def freeze(self) -> ChangeMap:
        return ChangeMap(self.epoch, self.sequence, self.granularity, dict(self.changed_at))


def new_epoch(source: random.Random) -> str:
    """A UUID as ESXi writes it: 16 hex pairs, a space between two, one dash in the middle."""
    pairs = [f"{byte:02x}" for byte in source.randbytes(16)]
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
