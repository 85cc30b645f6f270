"""The digests that the blocks of a disk must have, and the blocks of a target that differ."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.extent import Extent, between, clip
from cbtfs.core.ids import Digest, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Reader
from cbtfs.restore.image import PIECE_BYTES, Loss, parts_of
from cbtfs.store.digest import chunk_digest

_ZEROS: Final = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Expected:
    """A range of a disk, at most PIECE_BYTES or one block unless it is lost."""

    extent: Extent
    digests: Sequence[Digest | None] | None = None
    """Digest of each block, None for zeros; the extent begins at a block. None: all zeros."""
    loss: Loss | None = None
    """Error that makes the digests unknown."""
    differs: bool = False
    """Whether each block of the target is known to differ, so that it need not be read."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of a target that differ from the disk."""

    extent: Extent
    is_zero: bool
    """Whether the disk has zeros there."""


def expected_of_all(
    reader: Reader, record: DiskRecord, data_in: Callable[[Extent], Iterable[Extent]]
) -> Iterator[Expected]:
    """Yield what a whole disk must be, ascending; unreadable nodes are losses.

    Zeros of the disk are left out where the target, by *data_in*, has zeros without a read.
    """
    size, unit = record.size, record.block_size

    def zeros(first: int, blocks: int) -> Iterator[Expected]:
        for hole in clip([Extent(first * unit, blocks * unit)], 0, size):
            for data in data_in(hole):
                for part in parts_of(data, PIECE_BYTES):
                    yield Expected(part)

    def walk(node: Ref | None, level: int, index: int) -> Iterator[Expected]:
        span = int(FANOUT**level)
        if index * span * unit >= size:
            return
        if node is None:
            yield from zeros(index * span, span)
            return
        try:
            children = reader.children(node, level)
        except (ChunkMissing, DataCorrupt) as exc:
            for lost in clip([Extent(index * span * unit, span * unit)], 0, size):
                yield Expected(lost, loss=exc)
            return
        if level == 1:
            for is_zero, slot, end in _runs(children):
                if is_zero:
                    yield from zeros(index * FANOUT + slot, end - slot)
                else:
                    yield from _leaf(record, children, index * FANOUT, slot, end)
            return
        for slot, child in enumerate(children):
            yield from walk(child, level - 1, index * FANOUT + slot)

    try:
        tree = reader.disk(record).tree()
    except (ChunkMissing, DataCorrupt) as exc:
        yield from (Expected(whole, loss=exc) for whole in between(0, size))
        return
    yield from walk(tree.root, tree.height, 0)


def expected_of_blocks(
    reader: Reader, record: DiskRecord, runs: Iterable[tuple[int, int]]
) -> Iterator[Expected]:
    """Yield what the blocks of *runs*, (first block, blocks), must be within the disk.

    Raises:
        ChunkMissing: a node of the block map is missing.
        DataCorrupt: a node of the block map is corrupt.
    """
    tree = reader.disk(record).tree()
    for first, count in runs:
        at, end = first, first + count
        while at < end:
            leaf, slot = divmod(at, FANOUT)
            until = min(FANOUT, slot + end - at)
            yield from _leaf(record, tree.children(1, leaf), leaf * FANOUT, slot, until)
            at += until - slot


def _runs(children: Sequence[Ref | None]) -> Iterator[tuple[bool, int, int]]:
    """Yield (whether they are zeros, first slot, end) of the runs of blocks of a leaf."""
    start = 0
    for slot in range(1, len(children) + 1):
        is_zero = children[start] is None
        if slot == len(children) or (children[slot] is None) != is_zero:
            yield is_zero, start, slot
            start = slot


def _leaf(
    record: DiskRecord, children: Sequence[Ref | None], first: int, slot: int, end: int
) -> Iterator[Expected]:
    """Yield the blocks of a leaf, which begins at block *first*, from *slot* to *end*."""
    unit = record.block_size
    step = max(PIECE_BYTES // unit, 1)
    for at in range(slot, end, step):
        some = children[at : min(at + step, end)]
        extent = Extent((first + at) * unit, len(some) * unit)
        for part in clip([extent], 0, record.size):
            yield Expected(part, [None if child is None else child.digest for child in some])


def differing(expected: Expected, data: memoryview | None, unit: int) -> Iterator[Run]:
    """Yield the runs in which *data*, the content of the target, differs; ascending.

    Without *data*, all blocks differ. *unit* is the block size. The last block of a disk is padded
    with zeros for its digest.
    """
    start, length, digests = expected.extent.start, expected.extent.length, expected.digests
    if digests is None and data is not None and data.tobytes() == _ZEROS[:length]:
        return
    zeros = bytes(unit)
    first, is_zero = -1, False
    edges = [0, *range(unit - start % unit, length, unit), length]
    for number, (at, end) in enumerate(pairwise(edges)):
        digest = None if digests is None else digests[number]
        if data is None:
            is_different = True
        elif digest is None:
            is_different = data[at:end].tobytes() != zeros[: end - at]
        elif end - at == unit:
            is_different = chunk_digest(data[at:end]) != digest
        else:
            is_different = chunk_digest(data[at:end].tobytes().ljust(unit, b"\0")) != digest
        if first >= 0 and (not is_different or is_zero != (digest is None)):
            yield Run(Extent(start + first, at - first), is_zero)
            first = -1
        if is_different and first < 0:
            first, is_zero = at, digest is None
    if first >= 0:
        yield Run(Extent(start + first, length - first), is_zero)
