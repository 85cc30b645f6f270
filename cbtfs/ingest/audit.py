"""Look whether a source told all its changes: compare what it calls unchanged with the base.

An incremental has a sample of that read and compared; where the disk is read whole all the same,
everything is compared.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from cbtfs.core.audit import Sample, Sampling, choose
from cbtfs.core.blockmap import FANOUT, Shape, Tree, diff
from cbtfs.core.extent import Extent, between, clip, coalesce, total
from cbtfs.core.ids import Ref
from cbtfs.core.partitions import HEAD_BYTES, superblocks
from cbtfs.source.base import DiskSource
from cbtfs.store.digest import chunk_digest

OnMiss = Callable[[], None]
"""Called at once when a block differs that the list calls unchanged; from any thread, and perhaps
several times."""

_READ_BYTES: Final = 4 << 20
"""What one thread reads at a time: bounds memory where neighbours are picked."""


@dataclass(frozen=True, slots=True)
class SampleAudit:
    """What a sample of the blocks that a list calls unchanged turned out to be."""

    sample: Sample
    share: float
    mismatches: int
    read_bytes: int

    def document(self, missed: int | None = None) -> Mapping[str, Any]:
        """What the manifest keeps of it; *missed* where the disk was then read whole."""
        found = {
            "method": "sample",
            "of": self.sample.unchanged,
            "blocks": len(self.sample.blocks),
            "mismatches": self.mismatches,
            "weighted": self.sample.weighted,
            "share": self.share,
            "read_bytes": self.read_bytes,
            "seed": self.sample.seed,
        }
        return found if missed is None else found | {"missed": missed}


@dataclass(frozen=True, slots=True)
class WholeAudit:
    """What all blocks that a list calls unchanged turned out to be."""

    unchanged: int
    missed: int

    def document(self) -> Mapping[str, Any]:
        return {
            "method": "whole",
            "of": self.unchanged,
            "blocks": self.unchanged,
            "mismatches": self.missed,
            "missed": self.missed,
            "weighted": 0,
            "read_bytes": 0,
        }


def audit_sample(
    source: DiskSource,
    shape: Shape,
    base: Tree[Ref],
    base_size: int,
    listed: Sequence[Extent],
    sampling: Sampling,
    seed: str,
    on_miss: OnMiss,
) -> SampleAudit:
    """Read a sample of *source* besides *listed*, whole blocks, and compare it with *base*.

    *on_miss* is called before anything else is done about a difference: what follows may fail.
    """
    head = b"".join(
        bytes(source.read(extent)) for extent in between(0, min(HEAD_BYTES, source.size))
    )
    places = superblocks(head, source.size)
    sample = choose(shape, listed, places, base_size, sampling, seed)
    block = shape.block_size
    runs = coalesce(Extent(number * block, block) for number in sample.blocks)
    pieces = [
        piece
        for run in runs
        for at in range(run.start, run.end, _READ_BYTES)
        for piece in clip([run], at, min(at + _READ_BYTES, shape.size))
    ]

    def mismatches(piece: Extent) -> int:
        data = bytes(source.read(piece))
        found = 0
        for at in range(0, piece.length, block):
            own = _digest(data[at : at + block], block)
            if own != _digest_in(base, (piece.start + at) // block):
                on_miss()
                found += 1
        return found

    pool = ThreadPoolExecutor(max(os.cpu_count() or 1, 2), "audit")
    try:
        found = sum(pool.map(mismatches, pieces))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return SampleAudit(sample, sampling.share, found, len(head) + total(pieces))


def _digest(content: bytes, block_size: int) -> bytes | None:
    """Of a block's content as it is stored, padded at the disk's end; None for zeros."""
    return chunk_digest(content.ljust(block_size, b"\0")) if content.strip(b"\0") else None


def _digest_in(tree: Tree[Ref], block: int) -> bytes | None:
    ref = tree.children(1, block // FANOUT)[block % FANOUT]
    return None if ref is None else ref.digest


def audit_whole(
    before: Tree[Ref],
    after: Tree[Ref],
    listed: Sequence[Extent],
    shape: Shape,
    base_size: int,
    on_miss: OnMiss,
) -> WholeAudit:
    """Compare what *listed*, whole blocks, does not name, for a disk that was read whole."""
    common = min(-(-base_size // shape.block_size), shape.blocks)
    told = list(clip(coalesce(listed), 0, common * shape.block_size))
    starts = [extent.start for extent in told]

    def is_told(at: int) -> bool:
        number = bisect_right(starts, at) - 1
        return number >= 0 and at < told[number].end

    missed = 0
    for block in diff(before, after):
        if block < common and not is_told(block * shape.block_size):
            on_miss()
            missed += 1
    named = sum(-(-extent.length // shape.block_size) for extent in told)
    return WholeAudit(common - named, missed)
