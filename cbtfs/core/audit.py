"""The sample of blocks that an audit of a change list reads, and its probability of detection."""

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
"""Minimum size of a sample, for small disks. 64 blocks of 64 KiB are 4 MiB, one read of a
thread."""
MOST_BLOCKS: Final = 1 << 14
"""Maximum size of a sample: 1 GiB of 64 KiB blocks. The probability depends on the number of
blocks and not on their share: this many detect a miss of 1 block in 2,000 with 99.97 %, for a disk
of any size."""
FIRST_DOUBLING: Final = 128 << 30
"""ESXi tracked changes wrongly after a disk grew past this size or a power of two above it
(VMware KB 2090639)."""
_BESIDE_DOUBLING: Final = 4
"""Number of blocks to sample on either side of such a size."""
_BEFORE_OLD_END: Final = 2
"""Number of blocks before the old end of a disk to sample after it grew."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Size of the sample of the blocks that a list calls unchanged."""

    share: float
    """Share of the blocks, above 0 and at most 1."""
    least: int = LEAST_BLOCKS
    most: int = MOST_BLOCKS

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 < self.least <= self.most:
            raise ValueError(f"invalid sampling: {self}")

    def blocks(self, unchanged: int) -> int:
        """Return the number of blocks to read of *unchanged* blocks."""
        wanted = math.ceil(self.share * unchanged)
        return min(max(min(wanted, self.most), self.least), unchanged)


@dataclass(frozen=True, slots=True)
class Sample:
    """Blocks of a disk that an audit reads although a list calls them unchanged."""

    blocks: tuple[int, ...]
    """Ascending."""
    weighted: int
    """Number of blocks that were chosen for their position; the others are random."""
    unchanged: int
    """Blocks of the disk that the list calls unchanged."""
    seed: str


@dataclass(frozen=True, slots=True)
class AuditedDisk:
    """Facts about a disk that determine its sample."""

    shape: Shape
    listed: Sequence[Extent]
    """Whole blocks that the change list names, which are read anyway."""
    superblocks: Sequence[Extent]
    """Extents that file systems depend on."""
    base_size: int
    """Size of the disk at the base, in bytes."""


def choose(disk: AuditedDisk, sampling: Sampling, seed: str) -> Sample:
    """Return the blocks to audit: up to half of them at critical positions, the rest anywhere.

    The work is proportional to the change list and to the sample.
    """
    picker, shape = random.Random(seed), disk.shape
    taken = [_in_blocks(extent, shape) for extent in disk.listed]
    unchanged = shape.blocks - total(taken)
    wanted = sampling.blocks(unchanged)
    weighted = list[int]()
    critical = widen(disk.superblocks, shape.block_size, shape.size)
    positions = [
        [_in_blocks(extent, shape) for extent in critical],
        list(_doublings(shape)),
        list(_grown(shape, disk.base_size)),
        list(_neighbours(taken, shape)),
    ]
    positions.sort(key=total)  # Small groups first: large groups take the share that they leave.
    for at, group in enumerate(positions):
        rest = list(intersect(group, complement(taken, shape.blocks)))
        picked = _pick(rest, (wanted // 2 - len(weighted)) // (len(positions) - at), picker)
        weighted += picked
        taken += [Extent(block, 1) for block in picked]
    anywhere = _pick(list(complement(taken, shape.blocks)), wanted - len(weighted), picker)
    return Sample(tuple(sorted([*weighted, *anywhere])), len(weighted), unchanged, seed)


def _in_blocks(extent: Extent, shape: Shape) -> Extent:
    """Return an extent of whole blocks in units of blocks."""
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
    """Return *count* random numbers out of disjoint *runs*, or all; every set is equally likely."""
    ends = list(accumulate(run.length for run in runs))
    available = ends[-1] if ends else 0
    picked = []
    for number in picker.sample(range(available), min(count, available)):
        at = bisect_right(ends, number)
        picked.append(runs[at].end - (ends[at] - number))
    return picked


def detection(unchanged: int, missed: int, sampled: int) -> float:
    """Return the probability that a random sample includes a missed block.

    *sampled* blocks are drawn from *unchanged* ones, of which the list missed *missed*. The result
    is 1 - C(N - m, k) / C(N, k), where the quotient is the probability that all k blocks are among
    the N - m correct ones.
    """
    if not 0 <= missed <= unchanged or not 0 <= sampled <= unchanged:
        raise ValueError(f"of {unchanged} blocks {missed} missed and {sampled} sampled")
    if missed + sampled > unchanged:
        return 1.0
    few, many = sorted((missed, sampled))
    # The quotient is symmetric in m and k, so the product needs min(m, k) factors.
    return -math.expm1(math.fsum(math.log1p(-many / (unchanged - at)) for at in range(few)))
