"""Which packs are worth rewriting."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cbtfs.core.frame import ENTRY_BYTES, FOOTER_BYTES, PACK_HEADER_BYTES
from cbtfs.core.ids import PackId

DEFAULT_UNUSED: Final = 0.05
_FRAME: Final = PACK_HEADER_BYTES + FOOTER_BYTES


@dataclass(frozen=True, slots=True)
class PackUse:
    """How much of a pack is needed."""

    number: int
    id: PackId
    size: int
    live_objects: int
    live_bytes: int
    """Bytes of the frames of living objects."""

    @property
    def used_bytes(self) -> int:
        """What a pack with nothing but the living objects would take."""
        if not self.live_objects:
            return 0
        return self.live_bytes + self.live_objects * ENTRY_BYTES + _FRAME

    @property
    def unused_bytes(self) -> int:
        return max(self.size - self.used_bytes, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a prune goes: what it may leave unused, what it may rewrite."""

    unused_share: float = DEFAULT_UNUSED
    """Of all bytes in packs."""
    repack_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.unused_share <= 1 or (self.repack_bytes or 0) < 0:
            raise ValueError(f"no limits: unused {self.unused_share}, rewrite {self.repack_bytes}")


@dataclass(frozen=True, slots=True)
class Selection:
    removed: tuple[PackUse, ...]
    """Packs that nothing living is in."""
    rewritten: tuple[PackUse, ...]
    """Packs whose living objects move, those with the largest unused part first."""


def select(packs: Iterable[PackUse], limits: Limits) -> Selection:
    """The packs to remove, and those to rewrite until no more than allowed is unused.

    A pack is rewritten only where it shrinks; of what may be rewritten the most is made.
    """
    every = list(packs)
    removed = [each for each in every if not each.live_objects]
    kept = [each for each in every if each.live_objects]
    unused = sum(each.unused_bytes for each in kept)
    size = sum(each.size for each in kept)
    room = limits.repack_bytes
    rewritten = []
    for each in sorted(kept, key=lambda pack: pack.unused_bytes / pack.size, reverse=True):
        if not each.unused_bytes or unused <= size * limits.unused_share:
            break
        if room is not None:
            if each.live_bytes > room:
                continue
            room -= each.live_bytes
        rewritten.append(each)
        unused -= each.unused_bytes
        size -= each.unused_bytes
    return Selection(tuple(removed), tuple(rewritten))
