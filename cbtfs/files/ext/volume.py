"""Files of an ext2, ext3 or ext4 file system, by inode."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from cbtfs.files.ext.attributes import INLINE_DATA, Attribute, in_block, in_inode
from cbtfs.files.ext.block_map import Run, runs
from cbtfs.files.ext.directory import names
from cbtfs.files.ext.inode import IS_INLINE, USES_EXTENTS, Inode, parse_inode
from cbtfs.files.ext.superblock import ROOT_INODE, Superblock, read_superblock
from cbtfs.files.protocol import (
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
    Kind,
)
from cbtfs.volumes.source import Source, read_bytes

_MAP_BYTES: Final = 60
_BASE_BYTES: Final = 128
_INLINE_PARENT_BYTES: Final = 4
"""Inline directories start with the inode of their parent."""
_MAX_TARGET: Final = 4096
_GROUPS: Final = 1 << 12
_DIRECTORIES: Final = 64
_MAX_CACHED_NAMES: Final = 1 << 17


class ExtVolume:
    """An ext file system. All methods take paths; see FileSystem for the errors."""

    def __init__(self, source: Source) -> None:
        """Open the file system of *source*, whose journal is empty or replayed."""
        self._source = source
        self.superblock: Superblock = read_superblock(source)
        self._tables: dict[int, int] = {}
        self._directories: OrderedDict[int, dict[str, int]] = OrderedDict()

    def inode(self, number: int) -> Inode:
        """Return an inode."""
        superblock = self.superblock
        if not 0 < number <= superblock.inodes:
            raise FileSystemDamaged(f"inode {number} does not exist")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        size = superblock.inode_size
        offset = self._table(group) + index * size
        data = read_bytes(self._source, offset, size)
        if len(data) < size:
            raise FileSystemDamaged(f"inode {number} is beyond the volume")
        return parse_inode(number, data)

    def _table(self, group: int) -> int:
        """Return the offset of the inode table of a block group."""
        offset = self._tables.get(group)
        if offset is None:
            superblock = self.superblock
            at = superblock.descriptor_position(group)
            data = read_bytes(self._source, at, superblock.descriptor_size)
            if len(data) < superblock.descriptor_size:
                raise FileSystemDamaged("its group descriptors are beyond the volume")
            block = int.from_bytes(data[8:12], "little")
            if superblock.descriptor_size >= 64:
                block |= int.from_bytes(data[0x28:0x2C], "little") << 32
            if not 0 < block < superblock.blocks:
                raise FileSystemDamaged(f"the inode table of block group {group} does not exist")
            if len(self._tables) >= _GROUPS:
                self._tables.clear()
            offset = self._tables[group] = block * superblock.block_size
        return offset

    def table_bytes(self, group: int, offset: int, length: int) -> bytes:
        """Return bytes of the inode table of a block group, fewer at the end of the volume."""
        return read_bytes(self._source, self._table(group) + offset, length)

    def find(self, path: str) -> Inode:
        """Return the inode of a path."""
        inode = self.inode(ROOT_INODE)
        for name in filter(None, path.split("/")):
            if inode.kind is not Kind.DIRECTORY:
                raise GuestFileMissing(f"{path}: no such file")
            number = self.names_in(inode).get(name)
            if number is None:
                raise GuestFileMissing(f"{path}: no such file")
            inode = self.inode(number)
        return inode

    def stat(self, path: str) -> Entry:
        """Return the entry of a path."""
        return self.find(path).entry(path.rpartition("/")[2])

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the entries of a directory."""
        inode = self.find(path)
        if inode.kind is not Kind.DIRECTORY:
            raise GuestFileMissing(f"{path}: not a directory")
        for name, number in self.names_in(inode).items():
            yield self._entry(name, number)

    def _entry(self, name: str, number: int) -> Entry:
        try:
            return self.inode(number).entry(name)
        except FileSystemDamaged as exc:
            return Entry(name, Kind.UNKNOWN, number, defect=f"damaged: {exc}")

    def names_in(self, inode: Inode) -> dict[str, int]:
        """Return the names in a directory and their inodes."""
        known = self._directories.get(inode.number)
        if known is not None:
            self._directories.move_to_end(inode.number)
            return known
        if inode.is_encrypted:
            raise FileSystemUnsupported("the directory is encrypted by the guest")
        found: dict[str, int] = {}
        has_types = bool(self.superblock.incompatible & 2)
        for block in self._directory_blocks(inode):
            for name, number in names(block, has_types=has_types):
                if name in found:
                    raise FileSystemDamaged(f"directory inode {inode.number} has a name twice")
                found[name] = number
        if len(found) <= _MAX_CACHED_NAMES:
            self._directories[inode.number] = found
            while (
                len(self._directories) > _DIRECTORIES
                or sum(map(len, self._directories.values())) > _MAX_CACHED_NAMES
            ):
                self._directories.popitem(last=False)
        return found

    def _directory_blocks(self, inode: Inode) -> Iterator[bytes]:
        if inode.flags & IS_INLINE:
            data = self._inline(inode)
            yield data[_INLINE_PARENT_BYTES:_MAP_BYTES]
            yield data[_MAP_BYTES:]
            return
        block_size = self.superblock.block_size
        blocks = -(-inode.size // block_size)
        expected = 0
        for run in self.runs_of(inode, 0, blocks):
            if run.first != expected:
                break
            for block in range(run.block, run.block + run.blocks):
                yield self._read_block(block)
            expected = run.first + run.blocks
        if expected != blocks:
            raise FileSystemDamaged(f"directory inode {inode.number} has a hole")

    def _inline(self, inode: Inode) -> bytes:
        """Return inline data: 60 bytes of the inode, and an attribute for the rest."""
        rest = next((a.value for a in self._own_attributes(inode) if a.name == INLINE_DATA), b"")
        return inode.map + rest

    def _own_attributes(self, inode: Inode) -> Iterator[Attribute]:
        if inode.extra:
            yield from in_inode(inode.raw, _BASE_BYTES + inode.extra)

    def runs_of(self, inode: Inode, first: int, end: int) -> Iterator[Run]:
        """Yield the written blocks [first, end) of a file."""
        return runs(inode, self.superblock, self._read_block, first, end)

    def _read_block(self, block: int) -> bytes:
        size = self.superblock.block_size
        if block >= self.superblock.blocks:
            raise FileSystemDamaged(f"block {block} is beyond the file system")
        data = read_bytes(self._source, block * size, size)
        if len(data) < size:
            raise FileSystemDamaged(f"block {block} is beyond the volume")
        return data

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a file."""
        return self._read(self._readable(path, (Kind.FILE,)), offset, length)

    def _readable(self, path: str, kinds: Sequence[Kind]) -> Inode:
        inode = self.find(path)
        if inode.kind not in kinds:
            raise GuestFileMissing(f"{path}: not a {kinds[0].value}")
        if inode.defect is not None:
            raise FileSystemUnsupported(f"{path}: {inode.defect}")
        return inode

    def _read(self, inode: Inode, offset: int, length: int) -> bytes:
        end = min(offset + length, inode.size)
        if offset >= end:
            return b""
        if inode.flags & IS_INLINE:
            return self._inline(inode)[offset:end].ljust(end - offset, b"\0")
        data = bytearray(end - offset)
        for extent in self._extents(inode, offset, end):
            assert extent.offset is not None
            part = read_bytes(self._source, extent.offset, extent.length)
            if len(part) < extent.length:
                raise FileSystemDamaged(f"inode {inode.number} has blocks beyond the volume")
            data[extent.start - offset : extent.end - offset] = part
        return bytes(data)

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the extents of a file from *offset* on."""
        inode = self._readable(path, (Kind.FILE,))
        if offset >= inode.size:
            return
        if inode.flags & IS_INLINE:
            yield FileExtent(offset, inode.size - offset, None)
        else:
            yield from self._extents(inode, offset, inode.size)

    def _extents(self, inode: Inode, offset: int, end: int) -> Iterator[FileExtent]:
        """Yield the written parts of the bytes [offset, end)."""
        size = self.superblock.block_size
        for run in self.runs_of(inode, offset // size, -(-end // size)):
            start, stop = max(run.first * size, offset), min((run.first + run.blocks) * size, end)
            yield FileExtent(start, stop - start, run.block * size + start - run.first * size)

    def target(self, path: str) -> str:
        """Return the text of a link."""
        inode = self._readable(path, (Kind.LINK,))
        if inode.size > _MAX_TARGET:
            raise FileSystemDamaged(f"inode {inode.number} is a link with {inode.size} bytes")
        if inode.size < _MAP_BYTES and not inode.flags & (USES_EXTENTS | IS_INLINE):
            return os.fsdecode(inode.map[: inode.size])
        return os.fsdecode(self._read(inode, 0, inode.size))

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes of a file."""
        inode = self.find(path)
        found = {}
        attributes = [*self._own_attributes(inode)]
        if inode.attribute_block:
            attributes += in_block(self._read_block(inode.attribute_block))
        for attribute in attributes:
            if attribute.name != INLINE_DATA:
                found[attribute.name] = self._value(attribute)
        return found

    def _value(self, attribute: Attribute) -> bytes:
        if not attribute.inode:
            return attribute.value
        inode = self.inode(attribute.inode)
        if inode.size < attribute.size:
            raise FileSystemDamaged(f"the value of attribute {attribute.name} is too short")
        return self._read(inode, 0, attribute.size)
