"""One disk's blocks into the repository: read, hashed and compressed on all cores, in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.core.blockmap import FANOUT, Builder, Shape, Tree
from cbtfs.core.extent import Extent, clip
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, Ref
from cbtfs.core.manifest import Counts
from cbtfs.source.base import DiskSource
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.writer import ObjectWriter

UNIT_BYTES: Final = 4 << 20
"""What one thread reads and encodes at a time: large enough for a disk, small enough for memory."""

_PEEK_BYTES: Final = 64

Progress = Callable[[int], None]
"""Told how many more bytes have been read and put away."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What became of one disk."""

    root: Digest
    data_blocks: int
    counts: Counts


Reached = Callable[[int, Callable[[], Captured]], None]
"""Told that all leaves before a number are as they will be; what it is given stores the disk's tree
as it is then, for a disk of the size of its base."""


class _Unit(NamedTuple):
    """Extents of one leaf, whole blocks, that one thread reads."""

    leaf: int
    extents: list[Extent]


class _Block(NamedTuple):
    slot: int
    content: Ref | Encoded | None
    """What the repository has already, what it is to store, or zeros."""


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
    reached: Reached | None = None,
) -> Captured:
    """Put a disk's blocks into the repository and return its block map.

    *extents*, whole blocks and ascending, are read. The rest is as in *base*, of whose blocks
    *base_blocks* hold data; without a base it is zeros. *like* is the tree that blocks are
    compared with before anything else, as what they hold is most likely there.
    """
    units = _units(iter(extents), shape.block_size)
    work = _Work(source, shape, like, objects, level)
    tally = _Tally()
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
    for unit, blocks in _in_order(work.encode, units):
        if unit.leaf != leaf:
            if leaf >= 0:
                put_leaf()
            leaf, children = unit.leaf, builder.leaf(unit.leaf)
            before = work.like_leaf(leaf)
        for block in blocks:
            tally.data_blocks -= children[block.slot] is not None
            ref = _settle(block, before[block.slot], objects, shape.block_size, tally)
            tally.data_blocks += ref is not None
            children[block.slot] = ref
        read = sum(extent.length for extent in unit.extents)
        tally.read_bytes += read
        progress(read)
    if leaf >= 0:
        put_leaf()
    if base is not None:
        base_blocks -= sum(1 for _ in base.data_blocks(shape.blocks))
    return tally.captured(builder.finish(), base_blocks)


@dataclass(slots=True)
class _Tally:
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
    block: _Block, before: Ref | None, objects: ObjectWriter, block_size: int, tally: _Tally
) -> Ref | None:
    """What the leaf refers to now; what is new is stored."""
    content = block.content
    if content is None:
        tally.zero_blocks += 1
        return None
    if isinstance(content, Encoded):
        put = objects.put_chunk(content)
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
    for extent in extents:
        for index in range(extent.start // step, -(-extent.end // step)):
            if index != at:
                if pending:
                    yield _Unit(at * step // leaf_bytes, pending)
                at, pending = index, []
            pending += clip([extent], index * step, (index + 1) * step)
    if pending:
        yield _Unit(at * step // leaf_bytes, pending)


class _Work:
    """What the threads share; encode() runs in any of them."""

    def __init__(
        self,
        source: DiskSource,
        shape: Shape,
        like: Tree[Ref] | None,
        objects: ObjectWriter,
        level: int,
    ) -> None:
        self._source = source
        self._block = shape.block_size
        self._zeros = bytes(shape.block_size)
        self._like = like
        self._objects = objects
        self._level = level
        self._local = threading.local()

    def like_leaf(self, leaf: int) -> list[Ref | None]:
        """What the tree to compare with has there: 64 chunks, None where it has none."""
        return [None] * FANOUT if self._like is None else self._like.children(1, leaf)

    def _encoder(self) -> Encoder:
        encoder: Encoder | None = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = Encoder(self._level)
        return encoder

    def encode(self, unit: _Unit) -> list[_Block]:
        """The blocks of a unit, read from the source."""
        before = self.like_leaf(unit.leaf)
        encoder = self._encoder()
        blocks = []
        for extent in unit.extents:
            data = memoryview(self._source.read(extent))
            for at in range(0, extent.length, self._block):
                slot = (extent.start + at) // self._block % FANOUT
                content = data[at : at + self._block]
                blocks.append(_Block(slot, self._encode(content, before[slot], encoder)))
        return blocks

    def _encode(
        self, data: memoryview, before: Ref | None, encoder: Encoder
    ) -> Ref | Encoded | None:
        if len(data) < self._block:
            data = memoryview(bytes(data).ljust(self._block, b"\0"))
        # Most blocks of data show it at once: then nothing is copied to find out.
        if data[:_PEEK_BYTES] == self._zeros[:_PEEK_BYTES] and bytes(data) == self._zeros:
            return None
        digest = chunk_digest(data)
        if before is not None and before.digest == digest and not self._objects.is_bad(digest):
            return before
        number = self._objects.find(Kind.CHUNK, 0, digest)
        if number is not None:
            return Ref(number, digest)
        return encoder.encode(Kind.CHUNK, 0, digest, bytes(data))


def _in_order(
    work: Callable[[_Unit], list[_Block]], units: Iterator[_Unit]
) -> Iterator[tuple[_Unit, list[_Block]]]:
    """What *work* makes of each unit, in their order, on all cores; a bounded number at a time."""
    threads = max(os.cpu_count() or 1, 2)
    window = threads * 3
    pending: deque[tuple[_Unit, Future[list[_Block]]]] = deque()
    pool = ThreadPoolExecutor(threads, "capture")
    try:
        for unit in units:
            pending.append((unit, pool.submit(work, unit)))
            if len(pending) >= window:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
