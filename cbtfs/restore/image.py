"""The image of one disk at one point, as pieces of data or loss in ascending order."""

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.extent import Extent, clip
from cbtfs.core.ids import Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Reader

PIECE_BYTES: Final = 1 << 20
_LOADERS: Final = min((os.cpu_count() or 1) + 2, 8)
"""Number of threads: decoding and hashing release the GIL, and direct reads and writes wait."""
_AHEAD: Final = 2 * _LOADERS
"""Maximum number of pieces in flight, which bounds memory."""

Loss = ChunkMissing | DataCorrupt
Put = Callable[[int, memoryview], None]
"""Callback with an offset and the bytes there, which are valid until it returns."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a disk with data, or with the error that makes it unreadable."""

    extent: Extent
    data: bytes | memoryview = b""
    """Empty if it was passed to *put*."""
    loss: Loss | None = None


def pieces(reader: Reader, record: DiskRecord, put: Put | None) -> Iterator[Piece]:
    """Yield the data and the lost extents of a disk, ascending; the rest of the disk is zeros.

    A lost extent is as small as possible: one block, or the range of one node. *put* receives the
    data, from several threads and in any order, before its piece is yielded without data.
    """
    disk = reader.disk(record)
    buffers = ThreadBuffer(max(PIECE_BYTES, record.block_size))

    def read(extent: Extent) -> Piece:
        if put is None:
            return Piece(extent, disk.read(extent.start, extent.length))
        data = buffers.mine[: extent.length]
        disk.read_into(extent.start, data)
        put(extent.start, data)
        return Piece(extent)

    def load(planned: Piece) -> list[Piece]:
        if planned.loss is not None:
            return [planned]
        try:
            return [read(planned.extent)]
        except (ChunkMissing, DataCorrupt) as exc:
            if planned.extent.length <= record.block_size:
                return [Piece(planned.extent, loss=exc)]
        parts = parts_of(planned.extent, record.block_size)
        return [piece for part in parts for piece in load(Piece(part))]

    for loaded in ahead(load, _planned(reader, record)):
        yield from loaded


class ThreadBuffer(threading.local):
    """A buffer for each thread, reused because new memory must be cleared; it begins at a page."""

    def __init__(self, length: int) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.mine = memoryview(mmap.mmap(-1, max(length, 1), flags=private))


def ahead(work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Yield *work* of each item in order, computed ahead by threads."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(_LOADERS, "loader") as loaders:
        try:
            for item in items:
                pending.append(loaders.submit(work, item))
                if len(pending) >= _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _planned(reader: Reader, record: DiskRecord) -> Iterator[Piece]:
    """Yield pieces to read, without data, and the lost extents of unreadable nodes."""
    disk = reader.disk(record)

    def walk(node: Ref | None, level: int, index: int) -> Iterator[Piece]:
        if node is None:
            return
        try:
            children = reader.children(node, level)
        except (ChunkMissing, DataCorrupt) as exc:
            span = FANOUT**level * record.block_size
            for lost in clip([Extent(index * span, span)], 0, disk.size):
                yield Piece(lost, loss=exc)
            return
        if level > 1:
            for slot, child in enumerate(children):
                yield from walk(child, level - 1, index * FANOUT + slot)
            return
        for run in _runs(children, index * FANOUT, record.block_size):
            for part in clip(parts_of(run, max(PIECE_BYTES, record.block_size)), 0, disk.size):
                yield Piece(part)

    try:
        root = reader.root(record)
    except (ChunkMissing, DataCorrupt) as exc:
        yield Piece(Extent(0, record.size), loss=exc)
        return
    yield from walk(root, disk.tree().height, 0)


def _runs(children: Sequence[Ref | None], first: int, block_size: int) -> Iterator[Extent]:
    """Yield the runs of blocks of one leaf that hold data."""
    start = None
    for slot, child in enumerate([*children, None]):
        if child is not None and start is None:
            start = slot
        elif child is None and start is not None:
            yield Extent((first + start) * block_size, (slot - start) * block_size)
            start = None


def parts_of(extent: Extent, length: int) -> Iterator[Extent]:
    """Yield *extent* in parts of *length* bytes; the last one may be shorter."""
    for start in range(extent.start, extent.end, length):
        yield Extent(start, min(length, extent.end - start))
