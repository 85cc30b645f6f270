"""The blocks of the journal's inode: extents, or the block map of ext2 and ext3."""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.files.jbd2.refusal import Reason, ReplayRefused, damaged
from cbtfs.files.jbd2.superblock import SUPERBLOCK, Incompat, Superblock
from cbtfs.volumes.source import Source, read_bytes

MAX_JOURNAL_BYTES: Final = 4 << 30
"""mke2fs makes journals of at most 1 GiB unless it is given a size."""
_MAX_BLOCKS: Final = 1 << 20
_MAX_RUNS: Final = 1 << 16
"""Fragments; mke2fs makes a handful, and a block map breaks at each of its indirect blocks."""
_MAX_DEPTH: Final = 5
_EXTENTS_FLAG: Final = 0x80000
_EXTENT_MAGIC: Final = 0xF30A
_ENTRY_BYTES: Final = 12
_MAX_WRITTEN: Final = 0x8000
"""Lengths above it mean extents that are allocated and not written."""
_DIRECT: Final = 12
_REGULAR: Final = 0x8000


class Run(NamedTuple):
    """Consecutive blocks of a file that are consecutive on the volume."""

    first: int
    """Number of its first block in the file."""
    block: int
    """Number of that block on the volume."""
    length: int


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The blocks of a journal. Its runs cover all blocks from 0 on without a gap."""

    runs: tuple[Run, ...]

    @property
    def count(self) -> int:
        last = self.runs[-1]
        return last.first + last.length

    def block(self, number: int) -> int:
        """Return the block of the volume that has block *number* of the journal."""
        run = self.runs[bisect_right(self.runs, number, key=_first) - 1]
        return run.block + number - run.first

    def pieces(self, number: int, count: int) -> Iterator[Run]:
        """Yield *count* blocks from *number* on as runs."""
        end = number + count
        at = bisect_right(self.runs, number, key=_first) - 1
        while number < end:
            run = self.runs[at]
            length = min(run.first + run.length, end) - number
            yield Run(number, run.block + number - run.first, length)
            number += length
            at += 1


def _first(run: Run) -> int:
    return run.first


def journal_blocks(source: Source, superblock: Superblock) -> BlockMap:
    """Return the blocks of the journal of a file system.

    Raises:
        ReplayRefused: the inode is damaged, or the journal is too large.
    """
    inode = _journal_inode(source, superblock)
    mode, size = struct.unpack_from("<H2xI", inode)
    (size_high,) = struct.unpack_from("<I", inode, 0x6C)
    (flags,) = struct.unpack_from("<I", inode, 0x20)
    size |= size_high << 32
    count = size // superblock.block_bytes
    if mode & 0xF000 != _REGULAR or not count:
        raise damaged("its inode is not a file")
    if size > MAX_JOURNAL_BYTES or count > _MAX_BLOCKS:
        raise ReplayRefused(Reason.TOO_LARGE, f"{size >> 20} MiB")
    walk = _Walk(source, superblock, count)
    if flags & _EXTENTS_FLAG:
        walk.extents(inode[0x28 : 0x28 + 60], _MAX_DEPTH)
    else:
        walk.block_map(inode[0x28 : 0x28 + 60])
    return walk.result()


def _journal_inode(source: Source, superblock: Superblock) -> bytes:
    """Return the first 128 bytes of the inode of the journal."""
    group, index = divmod(superblock.journal_inode - 1, superblock.inodes_per_group)
    size = superblock.block_bytes
    in_block = size // superblock.descriptor_bytes
    block, at = divmod(group, in_block)
    if block and superblock.incompat & Incompat.META_BG:
        # The descriptors of later groups are elsewhere; journals have an inode of the first one.
        raise damaged("its inode is outside of the first block groups")
    start = (SUPERBLOCK // size + 1 + block) * size + at * superblock.descriptor_bytes
    descriptor = read_bytes(source, start, superblock.descriptor_bytes)
    if len(descriptor) < superblock.descriptor_bytes:
        raise damaged("its block group is outside of the volume")
    (table,) = struct.unpack_from("<I", descriptor, 8)
    if superblock.incompat & Incompat.WIDE and len(descriptor) >= 64:
        table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
    inode = read_bytes(source, table * size + index * superblock.inode_bytes, 128)
    if len(inode) < 128:
        raise damaged("its inode is outside of the volume")
    return inode


class _Walk:
    """Collects the runs of a journal in order."""

    def __init__(self, source: Source, superblock: Superblock, count: int) -> None:
        self._source = source
        self._superblock = superblock
        self._count = count
        self._runs: list[Run] = []
        self._next = 0
        self._visited: set[int] = set()

    def result(self) -> BlockMap:
        if self._next < self._count:
            raise damaged("its file has holes")
        return BlockMap(tuple(self._runs))

    def extents(self, node: bytes, depth: int) -> None:
        """Add the extents below a node, which is at most *depth* levels above its leaves."""
        magic, entries, _, level = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or level > depth or (entries + 1) * _ENTRY_BYTES > len(node):
            raise damaged("invalid extents")
        for at in range(_ENTRY_BYTES, (entries + 1) * _ENTRY_BYTES, _ENTRY_BYTES):
            if level:
                _, low, high = struct.unpack_from("<IIH", node, at)
                if self._next < self._count:
                    self.extents(self._node(low | high << 32), level - 1)
            else:
                first, length, high, low = struct.unpack_from("<IHHI", node, at)
                if first != self._next and self._next < self._count:
                    raise damaged("its file has holes")
                if length > _MAX_WRITTEN:
                    raise damaged("its file has unwritten blocks")
                self._add(low | high << 32, length)

    def block_map(self, pointers: bytes) -> None:
        """Add the blocks of the fifteen pointers of an inode without extents."""
        numbers = struct.unpack("<15I", pointers)
        for number in numbers[:_DIRECT]:
            if self._next < self._count:
                self._add(number, 1)
        for level, number in enumerate(numbers[_DIRECT:], 1):
            self._indirect(number, level)

    def _indirect(self, number: int, level: int) -> None:
        if self._next >= self._count:
            return
        block = self._node(number)
        for pointer in struct.unpack(f"<{len(block) // 4}I", block):
            if self._next >= self._count:
                return
            if level > 1:
                self._indirect(pointer, level - 1)
            else:
                self._add(pointer, 1)

    def _node(self, number: int) -> bytes:
        """Return the content of a block of the tree, each at most once."""
        if not 0 < number < self._superblock.blocks or number in self._visited:
            raise damaged("its file is cyclic or leaves the file system")
        self._visited.add(number)
        if len(self._visited) > _MAX_RUNS:
            raise ReplayRefused(Reason.TOO_LARGE, "too many fragments")
        size = self._superblock.block_bytes
        block = read_bytes(self._source, number * size, size)
        if len(block) < size:
            raise damaged("its file leaves the volume")
        return block

    def _add(self, block: int, count: int) -> None:
        """Add the next blocks of the file."""
        count = min(count, self._count - self._next)
        if count <= 0:
            return
        if not 0 < block <= self._superblock.blocks - count:
            raise damaged("its file leaves the file system")
        last = self._runs[-1] if self._runs else None
        if last is not None and last.block + last.length == block:
            self._runs[-1] = last._replace(length=last.length + count)
        elif len(self._runs) == _MAX_RUNS:
            raise ReplayRefused(Reason.TOO_LARGE, "too many fragments")
        else:
            self._runs.append(Run(self._next, block, count))
        self._next += count
