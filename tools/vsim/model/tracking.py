"""Changed block tracking of one disk: the blocks that changed since a change ID.

A change ID is '<epoch>/<sequence>'. A reset of tracking creates a new epoch and invalidates the
change IDs of the old one. A block that was ever written remains "in use" (vSphere Virtual Disk
Development Kit Programming Guide, "About Changed Block Tracking").
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
        """Return the blocks that changed after *sequence*, ascending."""
        return (block for block in sorted(self.changed_at) if self.changed_at[block] > sequence)


@dataclass(slots=True)
class ChangeTracker:
    """The tracking data of a disk while it changes."""

    epoch: str
    granularity: int
    sequence: int = 1
    changed_at: dict[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, epoch: str, granularity: int, in_use: Iterable[Span]) -> "ChangeTracker":
        """Start tracking of a disk that already holds data."""
        return cls(epoch, granularity, 1, dict.fromkeys(grains(in_use, granularity), 1))

    @classmethod
    def resume(cls, past: ChangeMap, epoch: str, sequence: int) -> "ChangeTracker":
        """Continue the tracking of *past* with another epoch and sequence number."""
        return cls(epoch, past.granularity, sequence, dict(past.changed_at))

    def advance(self, changed: Iterable[Span], step: int = 1) -> None:
        """Assign the next sequence number to the changed spans, which may be in any order."""
        self.sequence += step
        touched = grains(sorted(changed), self.granularity)
        self.changed_at.update(dict.fromkeys(touched, self.sequence))

    def freeze(self) -> ChangeMap:
        """Return a copy of the tracking data."""
        return ChangeMap(self.epoch, self.sequence, self.granularity, dict(self.changed_at))


def new_epoch(source: random.Random) -> str:
    """Return a random UUID in ESXi's format: 16 hex pairs with spaces and one dash."""
    pairs = [f"{byte:02x}" for byte in source.randbytes(16)]
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
