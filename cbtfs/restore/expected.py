"""The digests that the blocks of a disk must have, and the blocks of a target that differ."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.extent import Extent, between, clip
from cbtfs.core.ids import DIGEST_BYTES, NULL_DIGEST, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Reader
from cbtfs.restore.image import PIECE_BYTES, Loss, parts_of
from cbtfs.store.catalog.view import Node
from cbtfs.store.digest import node_content


@dataclass(frozen=True, slots=True)
class Expected:
    """A range of a disk within one leaf; PIECE_BYTES or one block, unless it is lost or known."""

    extent: Extent
    digests: bytes | None = None
    """Digest of each block, NULL_DIGEST for zeros; the extent begins at a block. None: zeros."""
    loss: Loss | None = None
    """Error that makes the digests unknown."""
    entries: tuple[bytes | None, ...] | None = None
    """Encoded location of each block; only for blocks that are known to differ from the target."""

    def edges(self, unit: int) -> list[int]:
        """Return where the blocks of *unit* bytes begin, and the end, relative to the extent."""
        start, length = self.extent.start, self.extent.length
        return [0, *range(unit - start % unit, length, unit), length]

    def digests_of(self, blocks: int) -> bytes:
        return NULL_DIGEST * blocks if self.digests is None else self.digests


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
            loaded = reader.node(node, level)
        except (ChunkMissing, DataCorrupt) as exc:
            for lost in clip([Extent(index * span * unit, span * unit)], 0, size):
                yield Expected(lost, loss=exc)
            return
        if level == 1:
            for is_zero, slot, end in _runs(loaded.entries):
                if is_zero:
                    yield from zeros(index * FANOUT + slot, end - slot)
                else:
                    yield from _leaf(record, loaded, index * FANOUT, slot, end)
            return
        for slot in range(FANOUT):
            yield from walk(loaded.child(slot), level - 1, index * FANOUT + slot)

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
    for first, count in runs:
        at, end = first, first + count
        while at < end:
            leaf, slot = divmod(at, FANOUT)
            until = min(FANOUT, slot + end - at)
            yield from _leaf(record, reader.leaf_node(record, leaf), leaf * FANOUT, slot, until)
            at += until - slot


def _runs(children: Sequence[object]) -> Iterator[tuple[bool, int, int]]:
    """Yield (whether they are None, first slot, end) of the runs of children of a leaf."""
    start = 0
    for slot in range(1, len(children) + 1):
        is_zero = children[start] is None
        if slot == len(children) or (children[slot] is None) != is_zero:
            yield is_zero, start, slot
            start = slot


def _leaf(
    record: DiskRecord, leaf: Node | None, first: int, slot: int, end: int
) -> Iterator[Expected]:
    """Yield the blocks of a leaf, which begins at block *first*, from *slot* to *end*."""
    unit = record.block_size
    step = max(PIECE_BYTES // unit, 1)
    for at in range(slot, end, step):
        until = min(at + step, end)
        extent = Extent((first + at) * unit, (until - at) * unit)
        digests = None if leaf is None else node_content(leaf.digests(at, until))
        for part in clip([extent], 0, record.size):
            yield Expected(part, digests)


def differing(expected: Expected, matches: Sequence[int], unit: int) -> Iterator[Run]:
    """Yield the runs of blocks of *unit* bytes in which the target differs; ascending.

    *matches*: for each block of *expected*, whether the target has its digest.
    """
    if all(matches):
        return
    edges = expected.edges(unit)
    count, digests = len(matches), expected.digests_of(len(matches))
    zeros = [digests.startswith(NULL_DIGEST, at * DIGEST_BYTES) for at in range(count)]
    number = 0
    while number < count:
        first, is_zero = number, zeros[number]
        number += 1
        if matches[first]:
            continue
        while number < count and not matches[number] and zeros[number] == is_zero:
            number += 1
        start = expected.extent.start + edges[first]
        yield Run(Extent(start, expected.extent.start + edges[number] - start), is_zero)
