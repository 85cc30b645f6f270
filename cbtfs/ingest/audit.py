"""Audit a change list: read blocks that it calls unchanged, and compare them with the base.

For an incremental, the audit reads a sample. If the disk is read completely anyway, the audit
compares all blocks.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from cbtfs.core.audit import AuditedDisk, Sample, Sampling, choose
from cbtfs.core.blockmap import FANOUT, Shape, Tree, diff
from cbtfs.core.extent import Extent, between, clip, coalesce, total
from cbtfs.core.ids import Ref
from cbtfs.core.partitions import HEAD_BYTES, superblocks
from cbtfs.source.base import DiskSource
from cbtfs.store.digest import UNKEYED, Digester

OnMiss = Callable[[], None]
"""Called when a block differs that the list calls unchanged, before anything else is done about
it. Several threads may call it, several times."""

_READ_BYTES: Final = 4 << 20
"""Maximum size of a read of one thread: bounds memory if the sample has adjacent blocks."""


@dataclass(frozen=True, slots=True)
class AuditedList:
    """A change list to audit."""

    shape: Shape
    """Shape of the disk now."""
    base: Tree[Ref]
    """Block map of the disk at the base."""
    base_size: int
    """Bytes."""
    extents: Sequence[Extent]
    """The change list, in whole blocks."""
    unproven: Sequence[Extent] = ()
    """Areas of the base that no run has read: a mismatch there is no fault of the list."""
    digester: Digester = UNKEYED
    """Computes the digests of the base."""


@dataclass(frozen=True, slots=True)
class SampleAudit:
    """Result of the audit of a sample."""

    sample: Sample
    share: float
    """Share of the unchanged blocks that the sample was asked to have."""
    mismatches: int
    read_bytes: int
    in_unproven: int = 0
    """Mismatches in areas that no run had read."""

    def document(self, missed: int | None = None) -> Mapping[str, Any]:
        """Return the audit for the manifest.

        *missed* is the number of missed blocks on the whole disk, if it was then read completely.
        """
        document = {
            "method": "sample",
            "of": self.sample.unchanged,
            "blocks": len(self.sample.blocks),
            "mismatches": self.mismatches,
            "weighted": self.sample.weighted,
            "share": self.share,
            "read_bytes": self.read_bytes,
            "seed": self.sample.seed,
        }
        return document if missed is None else document | {"missed": missed}


@dataclass(frozen=True, slots=True)
class WholeAudit:
    """Result of the audit of a disk that was read completely."""

    unchanged: int
    """Number of blocks that the list calls unchanged."""
    missed: int
    """Number of those that differ from the base."""
    in_unproven: int = 0
    """Those of them that are in areas that no run had read."""

    def document(self) -> Mapping[str, Any]:
        """Return the audit for the manifest."""
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
    audited: AuditedList,
    sampling: Sampling,
    seed: str,
    on_miss: OnMiss,
) -> SampleAudit:
    """Read a sample of the blocks of *source* that the list lacks; compare it with the base."""
    shape = audited.shape
    head = b"".join(
        bytes(source.read(extent)) for extent in between(0, min(HEAD_BYTES, source.size))
    )
    weighted = superblocks(head, source.size)
    disk = AuditedDisk(shape, audited.extents, weighted, audited.base_size)
    sample = choose(disk, sampling, seed)
    block = shape.block_size
    is_unproven = _within(audited.unproven)
    parts: tuple[list[Extent], list[Extent]] = ([], [])
    for number in sample.blocks:
        parts[is_unproven(number * block)].append(Extent(number * block, block))
    proven, unproven = (
        compare_blocks(source, shape, blocks, audited.base, on_miss, audited.digester)
        for blocks in parts
    )
    return SampleAudit(
        sample,
        sampling.share,
        proven.mismatches + unproven.mismatches,
        len(head) + proven.read_bytes + unproven.read_bytes,
        unproven.mismatches,
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """Result of a comparison of blocks with a block map."""

    blocks: int
    mismatches: int
    read_bytes: int


def compare_blocks(
    source: DiskSource,
    shape: Shape,
    extents: Iterable[Extent],
    expected: Tree[Ref] | None,
    on_miss: OnMiss,
    digester: Digester = UNKEYED,
) -> Compared:
    """Read *extents*, whole blocks of *source*, and compare them with *expected*; None: zeros.

    *digester* computes the digests of *expected*.
    """
    block = shape.block_size
    pieces = [
        piece
        for run in coalesce(extents)
        for at in range(run.start, run.end, _READ_BYTES)
        for piece in clip([run], at, min(at + _READ_BYTES, shape.size))
    ]

    def mismatches(piece: Extent) -> int:
        data = bytes(source.read(piece))
        count = 0
        for at in range(0, piece.length, block):
            digest = _digest(data[at : at + block], block, digester)
            if digest != _digest_in(expected, (piece.start + at) // block):
                on_miss()
                count += 1
        return count

    pool = ThreadPoolExecutor(max(os.cpu_count() or 1, 2), "audit")
    try:
        count = sum(pool.map(mismatches, pieces))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Compared(sum(-(-piece.length // block) for piece in pieces), count, total(pieces))


def _digest(content: bytes, block_size: int, digester: Digester) -> bytes | None:
    """Return the digest of a block, padded to *block_size*; None for zeros."""
    return digester.chunk(content.ljust(block_size, b"\0")) if content.strip(b"\0") else None


def _digest_in(tree: Tree[Ref] | None, block: int) -> bytes | None:
    ref = None if tree is None else tree.children(1, block // FANOUT)[block % FANOUT]
    return None if ref is None else ref.digest


def audit_whole(audited: AuditedList, after: Tree[Ref], on_miss: OnMiss) -> WholeAudit:
    """Compare all blocks that the list lacks; *after* is the block map of the disk now."""
    shape = audited.shape
    common = min(-(-audited.base_size // shape.block_size), shape.blocks)
    listed = list(clip(coalesce(audited.extents), 0, common * shape.block_size))
    is_listed, is_unproven = _within(listed), _within(audited.unproven)
    missed = in_unproven = 0
    for block in diff(audited.base, after):
        if block < common and not is_listed(block * shape.block_size):
            on_miss()
            missed += 1
            in_unproven += is_unproven(block * shape.block_size)
    listed_blocks = sum(-(-extent.length // shape.block_size) for extent in listed)
    return WholeAudit(common - listed_blocks, missed, in_unproven)


def _within(extents: Sequence[Extent]) -> Callable[[int], bool]:
    """Return a predicate of offsets: whether one is in *extents*, ascending and disjoint."""
    starts = [extent.start for extent in extents]

    def is_within(at: int) -> bool:
        number = bisect_right(starts, at) - 1
        return number >= 0 and at < extents[number].end

    return is_within
