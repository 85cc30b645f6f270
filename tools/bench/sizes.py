"""How much a bench measures: the whole, a quick form, and one that only shows that it runs."""

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, counts and seconds of one form of the bench."""

    name: str
    disk: int
    """The mixed disk, and the one of random bytes that is stored raw."""
    deltas: int
    large_disk: int
    """The disk of which an incremental writes a fiftieth."""
    large_data: int
    """How much of it holds data at all."""
    depth: int
    """Points of the chain in which every point rewrites the same blocks."""
    rewritten: int
    """How many blocks those are."""
    repeats: int
    fio_seconds: float


FULL = Sizes("full", 2 * GIB, 30, 16 * GIB, 4 * GIB, 1000, 64, 5, 3.0)
QUICK = Sizes("quick", 256 * MIB, 10, 2 * GIB, 512 * MIB, 100, 64, 3, 0.7)
TINY = Sizes("tiny", 16 * MIB, 2, 64 * MIB, 16 * MIB, 5, 8, 1, 0.2)
