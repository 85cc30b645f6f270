"""Which blocks an audit of a change list reads, and how likely it finds what the list hides."""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.extent import Extent, clip, complement, intersect, total, widen

LEAST_BLOCKS: Final = 64
"""Fewer find too little on a small disk; 64 blocks of 64 KiB are 4 MiB, as much as a thread reads
at a time."""
MOST_BLOCKS: Final = 1 << 14
"""Bounds the work: 1 GiB of 64 KiB blocks. What counts is the number of blocks, not their share:
these find a miss of 1 block in 2,000 with 99.97 %, however large the disk."""
FIRST_DOUBLING: Final = 128 << 30
"""From here on ESXi tracked wrongly once a disk grew past a power of two (VMware KB 2090639)."""
_BESIDE_DOUBLING: Final = 4
"""Blocks on either side of such a border."""
_BEFORE_OLD_END: Final = 2
"""Blocks that a disk had at its old end and that are looked at after it grew."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of what a list calls unchanged is read all the same."""

    share: float
    """Of the blocks, above 0 up to 1."""
    least: int = LEAST_BLOCKS
    most: int = MOST_BLOCKS

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 < self.least <= self.most:
            raise ValueError(f"no sampling: {self}")

    def blocks(self, unchanged: int) -> int:
        """How many of *unchanged* blocks are read."""
        wanted = math.ceil(self.share * unchanged)
        return min(max(min(wanted, self.most), self.least), unchanged)


@dataclass(frozen=True, slots=True)
class Sample:
    """Blocks of a disk that are read though a list calls them unchanged."""

    blocks: tuple[int, ...]
    """Ascending."""
    weighted: int
    """How many of them were chosen for their place; the others are random among the rest."""
    unchanged: int
    """Blocks of the disk that the list calls unchanged."""
    seed: str


def choose(
    shape: Shape,
    listed: Sequence[Extent],
    superblocks: Sequence[Extent],
    base_size: int,
    sampling: Sampling,
    seed: str,
) -> Sample:
    """The blocks to audit: up to half of them in places that matter, the rest anywhere.

    *listed*, whole blocks, is read anyway. *superblocks* are extents that file systems cannot do
    without, *base_size* the bytes that the disk had before. The work is proportional to *listed*
    and to the sample.
    """
    picker = random.Random(seed)
    taken = [_in_blocks(extent, shape) for extent in listed]
    unchanged = shape.blocks - total(taken)
    wanted = sampling.blocks(unchanged)
    weighted = list[int]()
    places = [
        [_in_blocks(extent, shape) for extent in widen(superblocks, shape.block_size, shape.size)],
        list(_doublings(shape)),
        list(_grown(shape, base_size)),
        list(_neighbours(taken, shape)),
    ]
    places.sort(key=total)  # what the small ones leave is for the large ones
    for at, place in enumerate(places):
        rest = list(intersect(place, complement(taken, shape.blocks)))
        picked = _pick(rest, (wanted // 2 - len(weighted)) // (len(places) - at), picker)
        weighted += picked
        taken += [Extent(block, 1) for block in picked]
    anywhere = _pick(list(complement(taken, shape.blocks)), wanted - len(weighted), picker)
    return Sample(tuple(sorted([*weighted, *anywhere])), len(weighted), unchanged, seed)


def _in_blocks(extent: Extent, shape: Shape) -> Extent:
    """Whole blocks as an extent that counts blocks."""
    first = extent.start // shape.block_size
    return Extent(first, -(-extent.end // shape.block_size) - first)


def _doublings(shape: Shape) -> Iterable[Extent]:
    border = FIRST_DOUBLING
    while border < shape.size:
        block = border // shape.block_size
        start = max(block - _BESIDE_DOUBLING, 0)
        yield from clip([Extent(start, block + _BESIDE_DOUBLING - start)], 0, shape.blocks)
        border *= 2


def _grown(shape: Shape, base_size: int) -> Iterable[Extent]:
    if shape.size > base_size:
        start = max(base_size // shape.block_size - _BEFORE_OLD_END, 0)
        yield Extent(start, shape.blocks - start)


def _neighbours(listed: Sequence[Extent], shape: Shape) -> Iterable[Extent]:
    beside = (Extent(max(e.start - 1, 0), e.length + 2) for e in listed)
    return widen(beside, 1, shape.blocks)


def _pick(runs: Sequence[Extent], count: int, picker: random.Random) -> list[int]:
    """*count* numbers out of *runs*, disjoint, or all; each set of them is equally likely."""
    ends = list(accumulate(run.length for run in runs))
    there = ends[-1] if ends else 0
    found = []
    for number in picker.sample(range(there), min(count, there)):
        at = bisect_right(ends, number)
        found.append(runs[at].end - (ends[at] - number))
    return found


def detection(unchanged: int, missed: int, sampled: int) -> float:
    """How likely one of *sampled* blocks, at random of *unchanged*, is one of *missed* ones.

    1 - C(N - m, k) / C(N, k): all k blocks are among the N - m that are as the list says.
    """
    if not 0 <= missed <= unchanged or not 0 <= sampled <= unchanged:
        raise ValueError(f"of {unchanged} blocks {missed} missed and {sampled} sampled")
    if missed + sampled > unchanged:
        return 1.0
    few, many = sorted((missed, sampled))
    # The quotient is symmetric in m and k: the product has as many factors as the smaller one.
    return -math.expm1(math.fsum(math.log1p(-many / (unchanged - at)) for at in range(few)))
