"""The image of one disk at one point, as pieces of data or loss in ascending order."""

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.ahead import ahead
from cbtfs.core.blockmap import FANOUT
from cbtfs.core.extent import Extent, clip
from cbtfs.core.ids import Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.native import Leaf
from cbtfs.reader import Reader

PIECE_BYTES: Final = 1 << 20
Loss = ChunkMissing | DataCorrupt
Put = Callable[[int, memoryview], None]
"""Callback with an offset and the bytes there, which are valid until it returns."""


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
    load = _Loader(reader, record, put)
    parts = (part for area in _areas(reader, record) for part in area.parts(record.block_size))
    for loaded in ahead(load, parts):
        yield from loaded


def copied(reader: Reader, record: DiskRecord, files: tuple[int, int], put: Put) -> Iterator[Piece]:
    """Write the data of a disk to *files*, and yield its pieces as pieces() does, without data.

    Compiled code copies a leaf at once, from several threads. *files* are those of Chunks.write().
    *put* receives data that compiled code could not read.
    """
    unit = record.block_size
    load = _Loader(reader, record, put)
    buffers = ThreadBuffer(max(PIECE_BYTES, unit))

    def copy(area: _Area) -> list[Piece]:
        extent = area.extent
        if area.leaf is None:
            return [Piece(extent, loss=area.loss)]
        at = extent.start + _write_leaf(reader, area, unit, files, buffers.mine)
        done = [Piece(run) for run in clip(area.runs(unit), extent.start, at)]
        rest = clip(area.runs(unit), at, extent.end)
        parts = [part for run in rest for part in parts_of(run, max(PIECE_BYTES, unit))]
        return done + [piece for part in parts for piece in load(Piece(part))]

    for loaded in ahead(copy, _areas(reader, record)):
        yield from loaded


class _Loader:
    """Loads planned pieces. Safe to use from several threads."""

    def __init__(self, reader: Reader, record: DiskRecord, put: Put | None) -> None:
        self._disk = reader.disk(record)
        self._unit = record.block_size
        self._put = put
        self._buffers = ThreadBuffer(max(PIECE_BYTES, record.block_size))

    def __call__(self, planned: Piece) -> list[Piece]:
        """Return *planned* with its data, or its blocks if one of them is lost."""
        if planned.loss is not None:
            return [planned]
        try:
            return [self._read(planned.extent)]
        except (ChunkMissing, DataCorrupt) as exc:
            if planned.extent.length <= self._unit:
                return [Piece(planned.extent, loss=exc)]
        parts = parts_of(planned.extent, self._unit)
        return [piece for part in parts for piece in self(Piece(part))]

    def _read(self, extent: Extent) -> Piece:
        if self._put is None:
            return Piece(extent, self._disk.read(extent.start, extent.length))
        data = self._buffers.mine[: extent.length]
        self._disk.read_into(extent.start, data)
        self._put(extent.start, data)
        return Piece(extent)


class ThreadBuffer(threading.local):
    """A buffer for each thread, reused because new memory must be cleared; it begins at a page."""

    def __init__(self, length: int) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.mine = memoryview(mmap.mmap(-1, max(length, 1), flags=private))


@dataclass(frozen=True, slots=True)
class _Area:
    """The range of a leaf that is within the disk, or the range of an unreadable node."""

    extent: Extent
    leaf: Leaf | None = None
    loss: Loss | None = None

    def parts(self, block_size: int) -> Iterator[Piece]:
        """Yield the pieces to load, without data."""
        if self.leaf is None:
            yield Piece(self.extent, loss=self.loss)
            return
        for run in self.runs(block_size):
            for part in parts_of(run, max(PIECE_BYTES, block_size)):
                yield Piece(part)

    def runs(self, block_size: int) -> Iterator[Extent]:
        """Yield the runs of blocks with data, ascending."""
        mask, at = 0 if self.leaf is None else self.leaf.data_mask, self.extent.start
        while mask:
            zeros = (mask & -mask).bit_length() - 1
            mask >>= zeros
            blocks = (~mask & mask + 1).bit_length() - 1
            mask >>= blocks
            at += zeros * block_size
            yield from clip([Extent(at, blocks * block_size)], 0, self.extent.end)
            at += blocks * block_size


def _write_leaf(
    reader: Reader, area: _Area, block_size: int, files: tuple[int, int], buffer: memoryview
) -> int:
    """Write the data of a leaf to the same place of a file.

    *files* and *buffer* are those of Chunks.write(). Return the number of bytes before the first
    block that could not be read here; zeros count as written.

    Raises:
        OSError: a write failed.
    """
    leaf, extent = area.leaf, area.extent
    assert leaf is not None
    try:
        reader.attach_all(leaf)
    except (ChunkMissing, DataCorrupt):
        return 0
    return reader.chunks.write(leaf, block_size, 0, extent.length, files, extent.start, buffer)


def _areas(reader: Reader, record: DiskRecord) -> Iterator[_Area]:
    """Yield the leaves of a disk and the unreadable nodes, ascending."""
    disk = reader.disk(record)

    def walk(node: Ref | None, level: int, index: int) -> Iterator[_Area]:
        if node is None:
            return
        span = FANOUT**level * record.block_size
        for extent in clip([Extent(index * span, span)], 0, disk.size):
            try:
                if level == 1:
                    yield _Area(extent, reader.leaf_of(node))
                    continue
                children = reader.children(node, level)
            except (ChunkMissing, DataCorrupt) as exc:
                yield _Area(extent, loss=exc)
                continue
            for slot, child in enumerate(children):
                yield from walk(child, level - 1, index * FANOUT + slot)

    try:
        root = reader.root(record)
    except (ChunkMissing, DataCorrupt) as exc:
        yield _Area(Extent(0, record.size), loss=exc)
        return
    yield from walk(root, disk.tree().height, 0)


def parts_of(extent: Extent, length: int) -> Iterator[Extent]:
    """Yield *extent* in parts of *length* bytes; the last one may be shorter."""
    for start in range(extent.start, extent.end, length):
        yield Extent(start, min(length, extent.end - start))
