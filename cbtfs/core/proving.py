"""How much of the areas that no run has read is read in each run (docs/decisions/0029)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from cbtfs.core.audit import Sampling
from cbtfs.core.extent import Extent, clip

SHARE: Final = Fraction(1, 30)
"""Default share of the areas that were not read, which each later run reads."""
SAMPLE: Final = Sampling(0.01, most=4096)
"""Sample of the unallocated areas that a full reads: at most 256 MiB of 64 KiB blocks."""


@dataclass(frozen=True, slots=True)
class Proving:
    """How much is read of the areas that the server calls unallocated."""

    share: Fraction = SHARE
    """Share of these areas that each run reads after a full."""
    sampling: Sampling = SAMPLE
    """Sample that a full reads."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"invalid share: {self.share}")


def next_to_prove(
    unproven: Sequence[Extent], skipped: int, share: Fraction, block: int
) -> list[Extent]:
    """Return the first areas of *unproven*: *share* of *skipped* bytes, in whole blocks of bytes.

    Areas begin at blocks. So with a share of 1/N, everything is read after N runs.
    """
    wanted = -(-skipped * share.numerator // (share.denominator * block)) * block
    taken = list[Extent]()
    for area in unproven:
        if wanted <= 0:
            break
        taken += clip([area], area.start, area.start + wanted)
        wanted -= area.length
    return taken
