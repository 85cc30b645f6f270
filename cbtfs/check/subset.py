"""Which packs a check reads: all, none, a share, a size, or one part of several."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cbtfs.core.ids import PackId
from cbtfs.core.units import parse_size

_PART = re.compile(r"(\d{1,4})/(\d{1,4})", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subset:
    """Exactly one of these is given.

    The parts 1/t to t/t cover every pack once. What a share or a size takes is drawn anew each
    time.
    """

    part: int = 0
    parts: int = 0
    share: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.parts and not 1 <= self.part <= self.parts:
            raise ValueError(f"there is no part {self.part} of {self.parts}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError("a share is between 0% and 100%")

    def choose(self, sizes: Mapping[PackId, int]) -> frozenset[PackId]:
        """The packs to read, of those that *sizes* names."""
        if self.parts:
            mine = self.part - 1
            return frozenset(p for p in sizes if int(p[:16], 16) % self.parts == mine)
        total = sum(sizes.values())
        room = total * self.share if self.share is not None else float(self.size or 0)
        if room >= total:
            return frozenset(sizes)
        chosen = set[PackId]()
        for pack in random.sample(sorted(sizes), len(sizes)):
            if room <= 0:
                break
            chosen.add(pack)
            room -= sizes[pack]
        return frozenset(chosen)


ALL: Final = Subset(share=1.0)
NONE: Final = Subset(size=0)


def parse_subset(text: str) -> Subset:
    """Return the subset that *text* names: 5%, 3/10 or 10G; ValueError if it names none."""
    if (found := _PART.fullmatch(text)) and int(found[2]):
        return Subset(part=int(found[1]), parts=int(found[2]))
    if found := _SHARE.fullmatch(text):
        return Subset(share=float(found[1]) / 100)
    try:
        if text.isdecimal():
            raise ValueError("a size needs a unit here")
        return Subset(size=parse_size(text))
    except ValueError as exc:
        raise ValueError(f"invalid --read-data-subset {text!r}: use e.g. 5%, 3/10 or 10G") from exc
