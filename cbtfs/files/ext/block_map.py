"""Block maps of inodes: extent trees, and the block lists of ext2 and ext3.

Source: Linux, Documentation/filesystems/ext4/ifork.rst.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from cbtfs.files.ext.inode import USES_EXTENTS, Inode
from cbtfs.files.ext.superblock import Superblock
from cbtfs.files.protocol import FileSystemDamaged

ReadBlock = Callable[[int], bytes]
"""Returns the bytes of a block of the volume."""

_HEADER: Final = struct.Struct("<HHHH4x")
_LEAF: Final = struct.Struct("<IHHI")
_INDEX: Final = struct.Struct("<IIH2x")
_MAGIC: Final = 0xF30A
_MAX_DEPTH: Final = 5
_MAX_WRITTEN: Final = 32768
"""Longer extents are reserved, and read as zeros."""
_DIRECT: Final = 12
_MAX_LEVEL: Final = 3


class Run(NamedTuple):
    """Consecutive blocks of a file on the volume."""

    first: int
    """Number of the first block in the file."""
    blocks: int
    block: int
    """Number of the first block on the volume."""


def runs(
    inode: Inode, superblock: Superblock, read_block: ReadBlock, first: int, end: int
) -> Iterator[Run]:
    """Yield the written blocks [first, end) of a file in ascending order; the others are zeros.

    Raises:
        FileSystemDamaged: the map contradicts itself.
    """
    if inode.flags & USES_EXTENTS:
        found = _extents(inode.map, read_block, first, end, -1)
    else:
        found = _listed(inode.map, superblock, read_block, first, end)
    for run in found:
        if run.block == 0 or run.block + run.blocks > superblock.blocks:
            raise FileSystemDamaged(f"inode {inode.number} has blocks beyond the file system")
        yield run


def _extents(node: bytes, read_block: ReadBlock, first: int, end: int, depth: int) -> Iterator[Run]:
    magic, entries, _, level = _HEADER.unpack_from(node)
    expected = level if depth < 0 else depth
    if magic != _MAGIC or level != expected or level > _MAX_DEPTH:
        raise FileSystemDamaged("an extent tree is damaged")
    if entries > (len(node) - _HEADER.size) // _LEAF.size:
        raise FileSystemDamaged("a node of an extent tree has too many entries")
    if level == 0:
        yield from _leaf(node, entries, first, end)
        return
    positions = [_INDEX.unpack_from(node, _HEADER.size * (at + 1)) for at in range(entries)]
    for at, (start, low, high) in enumerate(positions):
        until = positions[at + 1][0] if at + 1 < entries else end
        if at + 1 < entries and until <= start:
            raise FileSystemDamaged("an extent tree is not in order")
        if start < end and until > first:
            child = read_block(low | high << 32)
            yield from _extents(child, read_block, max(first, start), min(end, until), level - 1)


def _leaf(node: bytes, entries: int, first: int, end: int) -> Iterator[Run]:
    previous = 0
    for at in range(entries):
        start, length, high, low = _LEAF.unpack_from(node, _HEADER.size * (at + 1))
        is_written = length <= _MAX_WRITTEN
        length = length if is_written else length - _MAX_WRITTEN
        if start < previous or length == 0:
            raise FileSystemDamaged("an extent tree is not in order")
        previous = start + length
        begin, stop = max(start, first), min(previous, end)
        if is_written and begin < stop:
            yield Run(begin, stop - begin, (low | high << 32) + begin - start)


def _listed(
    map_: bytes, superblock: Superblock, read_block: ReadBlock, first: int, end: int
) -> Iterator[Run]:
    """Yield the blocks of a list, with consecutive ones joined."""
    pending: Run | None = None
    for number, block in _blocks(map_, superblock, read_block, first, end):
        if pending is not None:
            is_next = number == pending.first + pending.blocks
            if is_next and block == pending.block + pending.blocks:
                pending = Run(pending.first, pending.blocks + 1, pending.block)
                continue
            yield pending
        pending = Run(number, 1, block)
    if pending is not None:
        yield pending


def _blocks(
    map_: bytes, superblock: Superblock, read_block: ReadBlock, first: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield number and block of each block in [first, end) that is not a hole."""
    pointers = struct.unpack("<15I", map_)
    for number in range(first, min(end, _DIRECT)):
        if pointers[number]:
            yield number, pointers[number]
    per_block, start = superblock.block_size // 4, _DIRECT
    for level in range(1, _MAX_LEVEL + 1):
        span = per_block**level
        pointer = pointers[_DIRECT + level - 1]
        if pointer and start < end and start + span > first:
            yield from _indirect(pointer, level, start, superblock, read_block, (first, end))
        start += span


def _indirect(
    block: int,
    level: int,
    start: int,
    superblock: Superblock,
    read_block: ReadBlock,
    wanted: tuple[int, int],
) -> Iterator[tuple[int, int]]:
    if block >= superblock.blocks:
        raise FileSystemDamaged("a list of blocks is beyond the file system")
    per_block = superblock.block_size // 4
    pointers = struct.unpack(f"<{per_block}I", read_block(block))
    span = per_block ** (level - 1)
    first, end = wanted
    low = max(0, (first - start) // span)
    high = min(per_block, -(-(end - start) // span))
    for slot in range(low, high):
        if not pointers[slot]:
            continue
        if level == 1:
            yield start + slot, pointers[slot]
        else:
            yield from _indirect(
                pointers[slot], level - 1, start + slot * span, superblock, read_block, wanted
            )
