"""Capture one disk: read, hash and compress its blocks on all cores, and store them in order."""

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
"""Size of the batch that one thread reads and encodes: efficient reads, bounded memory."""

_MOST_THREADS: Final = 16
"""Default limit on threads. A batch takes 8 MiB while it is encoded and 4 MiB while it waits."""
_WAITING: Final = 4
"""Minimum number of encoded batches that may wait to be stored."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int], None]
"""Called with the number of bytes read and stored since the last call."""


@dataclass(frozen=True, slots=True)
class Captured:
    """The block map of a captured disk."""

    root: Digest
    data_blocks: int
    counts: Counts


OnCheckpoint = Callable[[int, Callable[[], Captured]], None]
"""Called with a leaf number and a function: all leaves before that number are complete, and the
function stores the block map as it is now. Only for a disk of the size of its base."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """Extents to read from one disk, and the trees that it is compared with."""

    shape: Shape
    extents: Sequence[Extent]
    """Extents to read: whole blocks, ascending. All other blocks are those of *base*."""
    base: Tree[Ref] | None = None
    """Block map to start from; if None, blocks that are not read are zeros."""
    base_blocks: int = 0
    """Number of blocks of *base* that hold data."""
    like: Tree[Ref] | None = None
    """Block map to compare blocks with before the repository is searched for their digests."""

    @property
    def is_listed(self) -> bool:
        """Whether the extents come from a change list: their blocks probably differ from *like*."""
        return self.base is not None and self.like is not None and self.base.root == self.like.root


class _Unit(NamedTuple):
    """Extents of one leaf, whole blocks, that one thread reads."""

    leaf: int
    extents: list[Extent]
    length: int
    """Bytes of all extents."""
    blocks: int


class _Block(NamedTuple):
    slot: int
    content: Ref | Encoded | None
    """A stored chunk, a chunk to store, or None for zeros."""


class _Unknown(NamedTuple):
    """A block whose content is not that of the block map it is compared with."""

    position: int
    """Position among the blocks of the batch."""
    digest: Digest
    content: memoryview


def capture(
    source: DiskSource,
    options: CaptureOptions,
    objects: ObjectWriter,
    progress: Progress,
    on_checkpoint: OnCheckpoint | None = None,
) -> Captured:
    """Store the blocks of a disk in the repository and return its block map."""
    shape = options.shape
    encoder = _BatchEncoder(source, options, objects)
    assembler = LeafAssembler(options, objects, on_checkpoint)
    batches = _batches(_units(iter(options.extents), shape.block_size))
    for batch, blocks in _in_order(encoder.encode, batches, objects.threads):
        assembler.add(batch, blocks)
        for unit in batch:
            progress(unit.length)
    return assembler.finish()


class LeafAssembler:
    """Assembles the leaves of a block map from encoded blocks, in ascending order."""

    def __init__(
        self,
        options: CaptureOptions,
        objects: ObjectWriter,
        on_checkpoint: OnCheckpoint | None = None,
    ) -> None:
        self._options = options
        self._objects = objects
        self._on_checkpoint = on_checkpoint
        self._counts = _CaptureCounts()
        self._builder = Builder(options.shape, options.base, self._put_node)
        self._leaf: int | None = None
        self._children: list[Ref | None] = []
        self._before: list[Ref | None] = []

    def add(self, units: Sequence[_Unit], blocks: Sequence[_Block]) -> None:
        """Store the new chunks among *blocks*, which are those of *units*, in their leaves."""
        encoded = [block.content for block in blocks if isinstance(block.content, Encoded)]
        puts = iter(self._objects.put_chunks(encoded))
        remaining = iter(blocks)
        counts, block_size = self._counts, self._options.shape.block_size
        for unit in units:
            if unit.leaf != self._leaf:
                self._close_leaf()
                self._open_leaf(unit.leaf)
            for slot, content in islice(remaining, unit.blocks):
                counts.data_blocks -= self._children[slot] is not None
                ref = _settle(content, self._before[slot], puts, block_size, counts)
                counts.data_blocks += ref is not None
                self._children[slot] = ref
            counts.read_bytes += unit.length

    def finish(self) -> Captured:
        """Store the rest of the block map and return it."""
        self._close_leaf()
        base, blocks = self._options.base, self._base_blocks
        if base is not None:
            blocks -= sum(1 for _ in base.data_blocks(self._options.shape.blocks))
        return self._counts.captured(self._builder.finish(), blocks)

    @property
    def _base_blocks(self) -> int:
        return 0 if self._options.base is None else self._options.base_blocks

    def _put_node(self, level: int, children: Sequence[Ref | None]) -> Ref:
        put = self._objects.put_node(level, children)
        self._counts.stored_bytes += put.stored
        return put.ref

    def _open_leaf(self, leaf: int) -> None:
        self._leaf = leaf
        self._children = self._builder.leaf(leaf)
        self._before = _leaf_of(self._options.like, leaf)

    def _close_leaf(self) -> None:
        if self._leaf is None:
            return
        self._builder.put_leaf(self._leaf, self._children)
        if self._on_checkpoint is not None:
            self._on_checkpoint(self._leaf + 1, self._so_far)
        self._leaf = None

    def _so_far(self) -> Captured:
        return self._counts.captured(self._builder.so_far(), self._base_blocks)


def _leaf_of(tree: Tree[Ref] | None, leaf: int) -> list[Ref | None]:
    """The 64 children of a leaf of *tree*; None for zeros and for blocks beyond its end."""
    return [None] * FANOUT if tree is None else tree.children(1, leaf)


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
    counts: _CaptureCounts,
) -> Ref | None:
    """Return the reference of a block; *puts* are the results of storing chunks, in order."""
    if content is None:
        counts.zero_blocks += 1
        return None
    if isinstance(content, Encoded):
        put = next(puts)
        if put.stored:
            counts.new_bytes += block_size
            counts.stored_bytes += put.stored
        content = put.ref
    if content != before:
        counts.written_blocks += 1
    return content


def _units(extents: Iterator[Extent], block_size: int) -> Iterator[_Unit]:
    """Split ascending extents at the boundaries of leaves and of batches."""
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
    """Group units into batches: the units of a change list are small."""
    batch, length = list[_Unit](), 0
    for unit in units:
        if batch and length + unit.length > UNIT_BYTES:
            yield batch
            batch, length = [], 0
        batch.append(unit)
        length += unit.length
    if batch:
        yield batch


class _ThreadState(threading.local):
    """Buffers and encoder of one thread."""

    def __init__(self, source: DiskSource, block_size: int, objects: ObjectWriter) -> None:
        self.blocks = Blocks(source, block_size, objects.digester)
        self.encoder = Encoder(objects.level)


class _BatchEncoder:
    """Reads and encodes batches; several threads may call encode() at once."""

    def __init__(self, source: DiskSource, options: CaptureOptions, objects: ObjectWriter) -> None:
        self._block_size = options.shape.block_size
        self._like = None if options.is_listed else options.like
        self._objects = objects
        self._local = _ThreadState(source, self._block_size, objects)

    def encode(self, batch: Sequence[_Unit]) -> list[_Block]:
        """Read the blocks of *batch*; encode those that the repository does not have."""
        blocks, unknown = list[_Block](), list[_Unknown]()
        for unit in batch:
            self._read(unit, blocks, unknown)
        known = self._objects.find_all(Kind.CHUNK, 0, [block.digest for block in unknown])
        new = [block for block in unknown if block.digest not in known]
        encoded = self._local.encoder.encode_chunks(
            [block.digest for block in new], [block.content for block in new]
        )
        for block, chunk in zip(new, encoded, strict=True):
            blocks[block.position] = _Block(blocks[block.position].slot, chunk)
        for block in unknown:
            number = known.get(block.digest)
            if number is not None:
                blocks[block.position] = _Block(
                    blocks[block.position].slot, Ref(number, block.digest)
                )
        return blocks

    def _read(self, unit: _Unit, blocks: list[_Block], unknown: list[_Unknown]) -> None:
        """Append the blocks of *unit* to *blocks*, and those with new content to *unknown*."""
        is_bad, memory = self._objects.is_bad, self._local.blocks
        before = _leaf_of(self._like, unit.leaf)
        for extent in unit.extents:
            slot = extent.start // self._block_size % FANOUT
            for count in memory.fill(extent):
                for index in range(count):
                    ref = None
                    if not memory.is_zero(index):
                        digest = memory.digest(index)
                        ref = before[slot]
                        if ref is None or ref.digest != digest or is_bad(ref):
                            ref = None
                            content = memory.content(index)
                            unknown.append(_Unknown(len(blocks), digest, content))
                    blocks.append(_Block(slot, ref))
                    slot += 1


def _in_order(
    work: Callable[[Item], Result], items: Iterator[Item], wanted: int | None
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of *work*, in order; a bounded number is in flight.

    *wanted* is the number of threads; None: one per core.
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
