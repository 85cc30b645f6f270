"""Decide which areas of a disk are not read, and prove them later (docs/decisions/0029).

A full may skip the areas that the server calls unallocated. A sample of them is read first, and one
block with data makes the whole disk be read. Later runs read the rest, a share in each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cbtfs.core.allocation import (
    Allocation,
    remaining,
    skipped_areas,
)
from cbtfs.core.audit import AuditedDisk, choose
from cbtfs.core.blockmap import Shape, Tree
from cbtfs.core.extent import Extent, between, clip, coalesce, total, widen
from cbtfs.core.ids import Ref
from cbtfs.core.partitions import HEAD_BYTES, superblocks
from cbtfs.core.proving import Proving, next_to_prove
from cbtfs.ingest.audit import OnMiss, compare_blocks
from cbtfs.source.base import DiskSource
from cbtfs.store.digest import UNKEYED, Digester


@dataclass(frozen=True, slots=True)
class Claim:
    """The allocated areas of a disk as the server reports them; they may be wrong."""

    method: str
    """Source of the areas: "transport" or "star"; "none" if no source was queried."""
    allocated: Sequence[Extent]
    """Extents outside of which the disk reads as zeros, according to that."""
    refused: str | None = None
    """Why the server was not asked, or its answer is not used."""


AskAllocation = Callable[[], Claim]
"""Asks the server; called when a full begins."""


@dataclass(frozen=True, slots=True)
class FullRead:
    """What a full reads, and the record of the rest."""

    extents: Sequence[Extent]
    allocation: Allocation | None
    """None if the source itself knows what it holds."""


def read_of_full(
    source: DiskSource, shape: Shape, claim: Claim, proving: Proving | None, seed: str
) -> FullRead:
    """Return the extents that a full reads: everything if a sample contradicts *claim*.

    Without *proving*, no sample is read.
    """
    extents = list(widen(claim.allocated, shape.block_size, shape.size))
    areas = skipped_areas(extents, shape.size)
    allocation = Allocation(claim.method, total(areas), areas, refused=claim.refused)
    if not areas or proving is None:
        return FullRead(extents, allocation)
    head = b"".join(
        bytes(source.read(extent)) for extent in between(0, min(HEAD_BYTES, shape.size))
    )
    disk = AuditedDisk(shape, extents, superblocks(head, shape.size), shape.size)
    block = shape.block_size
    sample = [
        Extent(number * block, block) for number in choose(disk, proving.sampling, seed).blocks
    ]
    compared = compare_blocks(source, shape, sample, None, lambda: None)
    allocation = replace(
        allocation,
        sampled=compared.blocks,
        mismatches=compared.mismatches,
        read_bytes=len(head) + compared.read_bytes,
    )
    if not compared.mismatches:
        return FullRead(extents, allocation)
    everything = list(between(0, shape.size))
    return FullRead(everything, replace(allocation, skipped=0, unproven=()))


def read_everything(shape: Shape, method: str) -> FullRead:
    """Return a full that reads the whole disk, whatever the server says."""
    return FullRead(list(between(0, shape.size)), Allocation(method, 0))


def prove(
    source: DiskSource,
    shape: Shape,
    allocation: Allocation,
    base: Tree[Ref],
    proving: Proving,
    on_miss: OnMiss,
    digester: Digester = UNKEYED,
) -> Allocation:
    """Read a share of the unproven areas, compare it with *base*; return the new record.

    *digester* computes the digests of *base*.
    """
    areas = next_to_prove(allocation.unproven, allocation.skipped, proving.share, shape.block_size)
    compared = compare_blocks(source, shape, areas, base, on_miss, digester)
    return replace(
        allocation,
        unproven=remaining(allocation.unproven, areas),
        sampled=compared.blocks,
        mismatches=compared.mismatches,
        read_bytes=compared.read_bytes,
    )


def carried(allocation: Allocation, read: Sequence[Extent], before: int, size: int) -> Allocation:
    """Return the record of the base, after an incremental read the extents *read*.

    *before* is the size of the disk at the base, *size* its size now.
    """
    unproven, skipped = list(clip(allocation.unproven, 0, size)), allocation.skipped
    if size > before:
        unproven += between(before, size)
        skipped += size - before
    areas = remaining(list(coalesce(unproven)), read)
    return replace(
        allocation, skipped=skipped, unproven=areas, sampled=0, mismatches=0, read_bytes=0
    )


def with_proof(allocation: Allocation | None, proof: Allocation | None) -> Allocation | None:
    """Return the record of a full, with the counts of the *proof* whose failure caused it."""
    if allocation is None or proof is None:
        return allocation
    return replace(
        allocation,
        method=proof.method,
        sampled=proof.sampled,
        mismatches=proof.mismatches,
        read_bytes=proof.read_bytes,
    )
