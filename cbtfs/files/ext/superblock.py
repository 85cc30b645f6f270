"""The superblock and the group descriptors of ext2, ext3 and ext4.

Source: Linux, Documentation/filesystems/ext4 and fs/ext4/ext4.h.
"""

import struct
from dataclasses import dataclass
from typing import Final

from cbtfs.files.protocol import FileSystemDamaged, FileSystemUnsupported
from cbtfs.volumes.source import Source, read_bytes

OFFSET: Final = 1024
SIZE: Final = 1024
MAGIC: Final = 0xEF53
ROOT_INODE: Final = 2

FILETYPE: Final = 0x2
RECOVER: Final = 0x4
JOURNAL_DEVICE: Final = 0x8
META_BG: Final = 0x10
EXTENTS: Final = 0x40
WIDE: Final = 0x80
EA_INODE: Final = 0x400
INLINE_DATA: Final = 0x8000

_KNOWN: Final = {
    FILETYPE: "filetype",
    RECOVER: "needs_recovery",
    META_BG: "meta_bg",
    EXTENTS: "extents",
    WIDE: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    EA_INODE: "ea_inode",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    INLINE_DATA: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
"""Incompatible features that this reader supports."""
_HAS_JOURNAL: Final = 0x4
_SPARSE_SUPER2: Final = 0x200
_SPARSE_SUPER: Final = 0x1
_STATE_VALID: Final = 0x1
_STATE_ERRORS: Final = 0x2
_MAX_LOG_BLOCK: Final = 6
"""Blocks of 64 KiB."""
_MIN_INODE_BYTES: Final = 128
_DESCRIPTOR_BYTES: Final = 32
_WIDE_DESCRIPTOR_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields of a superblock that a reader needs."""

    blocks: int
    inodes: int
    block_size: int
    first_block: int
    """Block of the superblock: 1 if blocks have 1 KiB, else 0."""
    blocks_per_group: int
    inodes_per_group: int
    inode_size: int
    descriptor_size: int
    compatible: int
    incompatible: int
    read_only: int
    """Features that a reader may ignore."""
    state: int
    journal_inode: int
    first_meta_group: int
    backup_groups: tuple[int, int]

    @property
    def kind(self) -> str:
        """Return "ext4", "ext3" or "ext2", by the features."""
        if self.incompatible & (EXTENTS | WIDE | 0x200):
            return "ext4"
        return "ext3" if self.has_journal else "ext2"

    @property
    def has_journal(self) -> bool:
        return bool(self.compatible & _HAS_JOURNAL)

    @property
    def needs_recovery(self) -> bool:
        """Whether changes are in the journal only."""
        return bool(self.incompatible & RECOVER)

    @property
    def is_clean(self) -> bool:
        """Whether the file system is consistent as it is on the volume."""
        if self.needs_recovery:
            return False
        return self.has_journal or bool(self.state & _STATE_VALID)

    @property
    def has_errors(self) -> bool:
        """Whether the guest's kernel has found an error."""
        return bool(self.state & _STATE_ERRORS)

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    def unknown_features(self) -> int:
        """Return the bits of incompatible features that this reader does not know."""
        return self.incompatible & ~sum(_KNOWN)

    def descriptor_position(self, group: int) -> int:
        """Return the offset of the descriptor of a block group on the volume."""
        per_block = self.block_size // self.descriptor_size
        index, within = divmod(group, per_block)
        if not self.incompatible & META_BG or index < self.first_meta_group:
            block = self.first_block + 1 + index
        else:
            first = index * per_block
            block = self.first_block + first * self.blocks_per_group + self._has_copy(first)
        return block * self.block_size + within * self.descriptor_size

    def _has_copy(self, group: int) -> bool:
        """Return whether a block group starts with a copy of the superblock."""
        if group == 0:
            return True
        if self.compatible & _SPARSE_SUPER2:
            return group in self.backup_groups
        if not self.read_only & _SPARSE_SUPER or group == 1:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def has_superblock(source: Source) -> bool:
    """Return whether a volume has the magic number of an ext superblock."""
    return read_bytes(source, OFFSET + 0x38, 2) == MAGIC.to_bytes(2, "little")


def read_superblock(source: Source) -> Superblock:
    """Return the superblock of a volume.

    Raises:
        FileSystemDamaged: it contradicts itself.
        FileSystemUnsupported: it has features that this reader does not know.
        CbtfsError: the volume cannot be read.
    """
    data = read_bytes(source, OFFSET, SIZE)
    if len(data) < SIZE or struct.unpack_from("<H", data, 0x38)[0] != MAGIC:
        raise FileSystemDamaged("it has no ext superblock")
    superblock = _parse(data)
    unknown = superblock.unknown_features()
    if unknown:
        raise FileSystemUnsupported(f"ext features {unknown:#x} are unknown")
    return superblock


def _parse(data: bytes) -> Superblock:
    inodes, blocks_low = struct.unpack_from("<II", data, 0)
    first, log_block = struct.unpack_from("<II", data, 0x14)
    (per_group,) = struct.unpack_from("<I", data, 0x20)
    (inodes_per_group,) = struct.unpack_from("<I", data, 0x28)
    (state,) = struct.unpack_from("<H", data, 0x3A)
    (revision,) = struct.unpack_from("<I", data, 0x4C)
    inode_size = struct.unpack_from("<H", data, 0x58)[0] if revision else _MIN_INODE_BYTES
    compatible, incompatible, read_only = (
        struct.unpack_from("<III", data, 0x5C) if revision else (0, 0, 0)
    )
    (journal,) = struct.unpack_from("<I", data, 0xE0)
    descriptor_size, first_meta = _DESCRIPTOR_BYTES, struct.unpack_from("<I", data, 0x104)[0]
    blocks = blocks_low
    if incompatible & WIDE:
        (descriptor_size,) = struct.unpack_from("<H", data, 0xFE)
        blocks |= struct.unpack_from("<I", data, 0x150)[0] << 32
        if descriptor_size < _WIDE_DESCRIPTOR_BYTES:
            raise FileSystemDamaged("its group descriptors are too small")
    backups = struct.unpack_from("<II", data, 0x24C)
    if log_block > _MAX_LOG_BLOCK:
        raise FileSystemDamaged("its block size is not possible")
    block_size = 1024 << log_block
    is_possible = (
        blocks > first
        and first == (block_size == 1024)
        and per_group > 0
        and inodes_per_group > 0
        and _MIN_INODE_BYTES <= inode_size <= block_size
        and inode_size.bit_count() == 1
        and descriptor_size <= block_size
        and descriptor_size.bit_count() == 1
    )
    if not is_possible:
        raise FileSystemDamaged("its ext superblock contradicts itself")
    return Superblock(
        blocks,
        inodes,
        block_size,
        first,
        per_group,
        inodes_per_group,
        inode_size,
        descriptor_size,
        compatible,
        incompatible,
        read_only,
        state,
        journal,
        first_meta,
        backups,
    )
