"""One disk's blocks into the repository: read, hashed and compressed on all cores, in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from cbtfs.core.blockmap import FANOUT, Builder, Shape, Tree
from cbtfs.core.extent import Extent, clip
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, Ref
from cbtfs.core.manifest import Counts
from cbtfs.ingest.blocks import Blocks
from cbtfs.source.base import DiskSource
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.writer import ObjectWriter, Put

UNIT_BYTES: Final = 4 << 20
"""What one thread reads and encodes at a time: large enough for a disk, small enough for memory."""

_MOST_THREADS: Final = 16
"""Unless more are asked for: a batch that is worked on takes 8 MiB, one that waits half of that."""
_WAITING: Final = 4
"""Batches that may wait to be put away, at least."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int], None]
"""Told how many more bytes have been read and put away."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What became of one disk."""

    root: Digest
    data_blocks: int
    counts: Counts


OnCheckpoint = Callable[[int, Callable[[], Captured]], None]
"""Told that all leaves before a number are as they will be; what it is given stores the disk's tree
as it is then, for a disk of the size of its base."""


class _Unit(NamedTuple):
    """Extents of one leaf, whole blocks, that one thread reads."""

    leaf: int
    extents: list[Extent]
    length: int
    """Of the extents together, in bytes."""
    blocks: int


class _Block(NamedTuple):
    slot: int
    content: Ref | Encoded | None
    """What the repository has already, what it is to store, or zeros."""


class _Unknown(NamedTuple):
    """A block that is not what it was."""

    place: int
    """Among the blocks that are encoded with it."""
    digest: Digest
    content: memoryview


def capture(
    source: DiskSource,
    shape: Shape,
    extents: Sequence[Extent],
    base: Tree[Ref] | None,
    base_blocks: int,
    like: Tree[Ref] | None,
    objects: ObjectWriter,
    level: int,
    progress: Progress,
    reached: OnCheckpoint | None = None,
) -> Captured:
    """Put a disk's blocks into the repository and return its block map.

    *extents*, whole blocks and ascending, are read. The rest is as in *base*, of whose blocks
    *base_blocks* hold data; without a base it is zeros. *like* is the tree that blocks are
    compared with before anything else, as what they hold is most likely there; where it is the
    base as well, what is read is what a list calls changed, and is not expected there.
    """
    units = _units(iter(extents), shape.block_size)
    is_listed = base is not None and like is not None and base.root == like.root
    work = _Work(source, shape, like, objects, level, is_compared=not is_listed)
    tally = _CaptureCounts()
    base_blocks = base_blocks if base is not None else 0

    def make_node(node_level: int, children: Sequence[Ref | None]) -> Ref:
        put = objects.put_node(node_level, children)
        tally.stored_bytes += put.stored
        return put.ref

    builder = Builder(shape, base, make_node)

    def put_leaf() -> None:
        builder.put_leaf(leaf, children)
        if reached is not None:
            reached(leaf + 1, lambda: tally.captured(builder.so_far(), base_blocks))

    leaf, children, before = -1, list[Ref | None](), list[Ref | None]()
    for batch, found in _in_order(work.encode, _batches(units), objects.threads):
        puts = iter(
            objects.put_chunks([f.content for f in found if isinstance(f.content, Encoded)])
        )
        blocks = iter(found)
        for unit in batch:
            if unit.leaf != leaf:
                if leaf >= 0:
                    put_leaf()
                leaf, children = unit.leaf, builder.leaf(unit.leaf)
                before = work.like_leaf(leaf)
            for slot, content in islice(blocks, unit.blocks):
                tally.data_blocks -= children[slot] is not None
                ref = _settle(content, before[slot], puts, shape.block_size, tally)
                tally.data_blocks += ref is not None
                children[slot] = ref
            tally.read_bytes += unit.length
            progress(unit.length)
    if leaf >= 0:
        put_leaf()
    if base is not None:
        base_blocks -= sum(1 for _ in base.data_blocks(shape.blocks))
    return tally.captured(builder.finish(), base_blocks)


@dataclass(slots=True)
class _CaptureCounts:
    read_bytes: int = 0
    written_blocks: int = 0
    zero_blocks: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    data_blocks: int = 0

    def captured(self, root: Ref | None, base_blocks: int) -> Captured:
        return Captured(
            NULL_DIGEST if root is None else root.digest,
            self.data_blocks + base_blocks,
            Counts(
                self.read_bytes,
                self.written_blocks,
                self.zero_blocks,
                self.new_bytes,
                self.stored_bytes,
            ),
        )


def _settle(
    content: Ref | Encoded | None,
    before: Ref | None,
    puts: Iterator[Put],
    block_size: int,
    tally: _CaptureCounts,
) -> Ref | None:
    """What the leaf refers to now; *puts* tell what became of each chunk that was to be stored."""
    if content is None:
        tally.zero_blocks += 1
        return None
    if isinstance(content, Encoded):
        put = next(puts)
        if put.stored:
            tally.new_bytes += block_size
            tally.stored_bytes += put.stored
        content = put.ref
    if content != before:
        tally.written_blocks += 1
    return content


def _units(extents: Iterator[Extent], block_size: int) -> Iterator[_Unit]:
    """Cut ascending extents at the borders of leaves, and to what one thread takes at a time."""
    leaf_bytes = block_size * FANOUT
    step = min(leaf_bytes, max(UNIT_BYTES, block_size))
    at, pending = -1, list[Extent]()

    def unit() -> _Unit:
        length = sum(extent.length for extent in pending)
        blocks = sum(-(-extent.length // block_size) for extent in pending)
        return _Unit(at * step // leaf_bytes, pending, length, blocks)

    for extent in extents:
        for index in range(extent.start // step, -(-extent.end // step)):
            if index != at:
                if pending:
                    yield unit()
                at, pending = index, []
            pending += clip([extent], index * step, (index + 1) * step)
    if pending:
        yield unit()


def _batches(units: Iterator[_Unit]) -> Iterator[list[_Unit]]:
    """Yield units, together what one thread takes: those of a list of changes are small."""
    batch, length = list[_Unit](), 0
    for unit in units:
        if batch and length + unit.length > UNIT_BYTES:
            yield batch
            batch, length = [], 0
        batch.append(unit)
        length += unit.length
    if batch:
        yield batch


class _Tools(threading.local):
    """What each thread has of its own."""

    def __init__(self, source: DiskSource, block_size: int, level: int) -> None:
        self.blocks = Blocks(source, block_size)
        self.encoder = Encoder(level)


class _Work:
    """What the threads share; encode() runs in any of them."""

    def __init__(
        self,
        source: DiskSource,
        shape: Shape,
        like: Tree[Ref] | None,
        objects: ObjectWriter,
        level: int,
        *,
        is_compared: bool,
    ) -> None:
        self._block = shape.block_size
        self._is_compared = is_compared
        self._like = like
        self._objects = objects
        self._local = _Tools(source, shape.block_size, level)

    def like_leaf(self, leaf: int) -> list[Ref | None]:
        """What the tree to compare with has there: 64 chunks, None where it has none."""
        return [None] * FANOUT if self._like is None else self._like.children(1, leaf)

    def encode(self, batch: Sequence[_Unit]) -> list[_Block]:
        """The blocks of some units, read from the source."""
        blocks, unknown = list[_Block](), list[_Unknown]()
        for unit in batch:
            self._look_at(unit, blocks, unknown)
        known = self._objects.find_all(Kind.CHUNK, 0, [each.digest for each in unknown])
        fresh = [each for each in unknown if each.digest not in known]
        contents = [each.content for each in fresh]
        encoded = self._local.encoder.encode_chunks([each.digest for each in fresh], contents)
        for each, chunk in zip(fresh, encoded, strict=True):
            blocks[each.place] = _Block(blocks[each.place].slot, chunk)
        for each in unknown:
            number = known.get(each.digest)
            if number is not None:
                blocks[each.place] = _Block(blocks[each.place].slot, Ref(number, each.digest))
        return blocks

    def _look_at(self, unit: _Unit, blocks: list[_Block], unknown: list[_Unknown]) -> None:
        """Add the blocks of *unit*, those whose content is not where it was to *unknown* too."""
        is_bad, memory = self._objects.is_bad, self._local.blocks
        before = self.like_leaf(unit.leaf) if self._is_compared else [None] * FANOUT
        for extent in unit.extents:
            slot = extent.start // self._block % FANOUT
            for count in memory.fill(extent):
                for index in range(count):
                    ref = None
                    if not memory.is_zero(index):
                        digest = memory.digest(index)
                        ref = before[slot]
                        if ref is None or ref.digest != digest or is_bad(digest):
                            ref = None
                            content = memory.content(index)
                            unknown.append(_Unknown(len(blocks), digest, content))
                    blocks.append(_Block(slot, ref))
                    slot += 1


def _in_order(
    work: Callable[[Item], Result], items: Iterator[Item], wanted: int | None
) -> Iterator[tuple[Item, Result]]:
    """What *work* makes of each item, in their order; a bounded number at a time.

    By *wanted* threads, or on all cores.
    """
    threads = wanted or min(max(os.cpu_count() or 1, 2), _MOST_THREADS)
    window = threads + max(threads // 2, _WAITING)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, "capture")
    try:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) >= window:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
