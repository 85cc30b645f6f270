"""The packs that a check reads: all, none, a share, a size, or one part of several."""

import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from cbtfs.core.ids import PackId
from cbtfs.core.units import parse_size

_PART = re.compile(r"(\d{1,4})/(\d{1,4})", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subset:
    """A subset of packs: a part, a share or a size.

    The parts 1/t to t/t include every pack exactly once. The packs of a share or a size are drawn
    at random each time.
    """

    part: int = 0
    parts: int = 0
    share: float | None = None
    size: int | None = None
    is_unverified: bool = False
    """The packs of capture keys that no reader has verified."""

    def __post_init__(self) -> None:
        if self.parts and not 1 <= self.part <= self.parts:
            raise ValueError(f"part {self.part} of {self.parts} does not exist")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError("a share must be between 0% and 100%")

    def choose(
        self, sizes: Mapping[PackId, int], unverified: Collection[PackId] = ()
    ) -> frozenset[PackId]:
        """Return the packs to read; *sizes* has the size of every pack in bytes."""
        if self.is_unverified:
            return frozenset(unverified)
        if self.parts:
            remainder = self.part - 1
            return frozenset(p for p in sizes if int(p[:16], 16) % self.parts == remainder)
        total = sum(sizes.values())
        budget = total * self.share if self.share is not None else float(self.size or 0)
        if budget >= total:
            return frozenset(sizes)
        chosen = set[PackId]()
        for pack in random.sample(sorted(sizes), len(sizes)):
            if budget <= 0:
                break
            chosen.add(pack)
            budget -= sizes[pack]
        return frozenset(chosen)


ALL: Final = Subset(share=1.0)
NONE: Final = Subset(size=0)


def parse_subset(text: str) -> Subset:
    """Parse a subset such as 5%, 3/10, 10G or unverified; ValueError if *text* is invalid."""
    if text == "unverified":
        return Subset(is_unverified=True)
    if (match := _PART.fullmatch(text)) and int(match[2]):
        return Subset(part=int(match[1]), parts=int(match[2]))
    if match := _SHARE.fullmatch(text):
        return Subset(share=float(match[1]) / 100)
    try:
        if text.isdecimal():
            raise ValueError("a size needs a unit here")
        return Subset(size=parse_size(text))
    except ValueError as exc:
        raise ValueError(
            f"invalid --read-data-subset {text!r}: use e.g. 5%, 3/10, 10G or unverified"
        ) from exc
