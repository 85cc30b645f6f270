"""Selection of the packs to remove and to rewrite."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from cbtfs.core.frame import closing_bytes, first_frame
from cbtfs.core.ids import PackId

DEFAULT_UNUSED: Final = 0.05


@dataclass(frozen=True, slots=True)
class PackUse:
    """Use of one pack."""

    number: int
    id: PackId
    size: int
    live_objects: int
    live_bytes: int
    """Bytes of the frames of live objects."""
    is_sealed: bool = False
    """Whether the pack is encrypted."""
    is_signed: bool = False
    """Whether a pack that replaces it is signed."""

    @property
    def used_bytes(self) -> int:
        """Size of a pack with only the live objects."""
        if not self.live_objects:
            return 0
        closing = closing_bytes(self.live_objects, self.is_sealed, self.is_signed)
        return self.live_bytes + first_frame(self.is_sealed) + closing

    @property
    def unused_bytes(self) -> int:
        return max(self.size - self.used_bytes, 0)


@dataclass(frozen=True, slots=True)
class PruneLimits:
    """Limits of a prune: the unused bytes that it may leave, the bytes that it may rewrite."""

    unused_share: float = DEFAULT_UNUSED
    """Share of all bytes in packs."""
    repack_bytes: int | None = None
    rekeys: bool = False
    """Rewrite packs of older key epochs, too, and encrypt their files again."""

    def __post_init__(self) -> None:
        if not 0 <= self.unused_share <= 1 or (self.repack_bytes or 0) < 0:
            raise ValueError(
                f"invalid limits: unused {self.unused_share}, rewrite {self.repack_bytes}"
            )


@dataclass(frozen=True, slots=True)
class PackSelection:
    """The packs that a prune removes and rewrites."""

    removed: tuple[PackUse, ...]
    """Packs without live objects."""
    rewritten: tuple[PackUse, ...]
    """Packs whose live objects move, in descending order of the unused share."""


def select(
    packs: Iterable[PackUse], limits: PruneLimits, old: Collection[PackId] = ()
) -> PackSelection:
    """Select packs to remove, and packs to rewrite until *limits* allow the unused bytes.

    Packs in *old* come first, whatever their size. Others are rewritten only if that makes them
    smaller. Packs with the largest unused share come
    first, so that rewritten bytes free as much as possible.
    """
    every = list(packs)
    removed = [pack for pack in every if not pack.live_objects]
    kept = [pack for pack in every if pack.live_objects]
    unused = sum(pack.unused_bytes for pack in kept)
    size = sum(pack.size for pack in kept)
    budget = limits.repack_bytes
    rewritten = []
    for pack in (pack for pack in kept if pack.id in old):
        if budget is not None:
            if pack.live_bytes > budget:
                continue
            budget -= pack.live_bytes
        rewritten.append(pack)
        unused -= pack.unused_bytes
        size -= pack.unused_bytes
    kept = [pack for pack in kept if pack.id not in old]
    for pack in sorted(kept, key=lambda pack: pack.unused_bytes / pack.size, reverse=True):
        if not pack.unused_bytes or unused <= size * limits.unused_share:
            break
        if budget is not None:
            if pack.live_bytes > budget:
                continue
            budget -= pack.live_bytes
        rewritten.append(pack)
        unused -= pack.unused_bytes
        size -= pack.unused_bytes
    return PackSelection(tuple(removed), tuple(rewritten))
