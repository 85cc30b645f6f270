"""The superblock of ext2, ext3 and ext4: the fields that locate the journal."""

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from cbtfs.files.jbd2.refusal import Reason, ReplayRefused, damaged
from cbtfs.native import crc32c

SUPERBLOCK: Final = 1024
"""Offset of the superblock in bytes."""
SUPERBLOCK_BYTES: Final = 1024
_MAGIC: Final = 0xEF53
_CHECKSUM: Final = 1020
_STATE: Final = 0x3A
_INCOMPAT: Final = 0x60
_MAX_LOG_BLOCK: Final = 6
_ERROR_STATE: Final = 2
_HAS_JOURNAL: Final = 0x4
_METADATA_CHECKSUMS: Final = 0x400


class Incompat(IntFlag):
    """Features without which a file system must not be read."""

    FILE_TYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEVICE = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    WIDE = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    DIR_DATA = 0x1000
    CHECKSUM_SEED = 0x2000
    LARGE_DIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASE_FOLD = 0x20000


_KNOWN: Final = sum(Incompat)


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields of a superblock that a replay needs."""

    data: bytes
    block_bytes: int
    blocks: int
    inode_bytes: int
    journal_inode: int
    """Number of the inode of the journal; 0 if the journal is on another device."""
    incompat: int
    has_journal: bool
    inodes_per_group: int
    descriptor_bytes: int
    """Size of a block group descriptor."""

    @property
    def needs_recovery(self) -> bool:
        """Return True if the journal has changes that are not yet in place."""
        return bool(self.incompat & Incompat.RECOVER)


def parse_superblock(data: bytes, size: int) -> Superblock | None:
    """Parse the 1024 bytes of a superblock of a volume of *size* bytes; None if it is no ext.

    Raises:
        ReplayRefused: a field is impossible.
    """
    if len(data) < SUPERBLOCK_BYTES or int.from_bytes(data[0x38:0x3A], "little") != _MAGIC:
        return None
    (log_block,) = struct.unpack_from("<I", data, 0x18)
    inodes_per_group, revision = struct.unpack_from("<I32xI", data, 0x28)
    compat, incompat = struct.unpack_from("<II", data, 0x5C)
    (journal_inode,) = struct.unpack_from("<I", data, 0xE0)
    blocks, blocks_high = struct.unpack_from("<I", data, 4)[0], 0
    inode_bytes, descriptor_bytes = 128, 32
    if revision:
        inode_bytes = struct.unpack_from("<H", data, 0x58)[0]
    if incompat & Incompat.WIDE:
        descriptor_bytes = struct.unpack_from("<H", data, 0xFE)[0]
        blocks_high = struct.unpack_from("<I", data, 0x150)[0]
    if log_block > _MAX_LOG_BLOCK:
        raise damaged("invalid block size")
    block_bytes = 1024 << log_block
    superblock = Superblock(
        data=bytes(data[:SUPERBLOCK_BYTES]),
        block_bytes=block_bytes,
        blocks=blocks | blocks_high << 32,
        inode_bytes=inode_bytes,
        journal_inode=journal_inode,
        incompat=incompat,
        has_journal=bool(compat & _HAS_JOURNAL),
        inodes_per_group=inodes_per_group,
        descriptor_bytes=descriptor_bytes,
    )
    if not 128 <= inode_bytes <= block_bytes or inode_bytes & (inode_bytes - 1):
        raise damaged("invalid inode size")
    if not 32 <= descriptor_bytes <= block_bytes or not inodes_per_group:
        raise damaged("invalid block groups")
    if superblock.blocks * block_bytes > size:
        raise damaged("the file system is larger than its volume")
    return superblock


def check_features(superblock: Superblock) -> None:
    """Raise ReplayRefused if the superblock has a feature that a replay does not know."""
    if superblock.incompat & Incompat.JOURNAL_DEVICE or not superblock.journal_inode:
        raise ReplayRefused(Reason.EXTERNAL)
    if unknown := superblock.incompat & ~_KNOWN:
        raise ReplayRefused(Reason.UNKNOWN_FEATURE, f"file system, {unknown:#x}")


def recovered(data: bytes, has_error: bool) -> bytes:
    """Return a superblock as e2fsck leaves it after a replay, except for its time stamp.

    The recovery flag is cleared. An error that the journal recorded is set in the state, so that a
    later check looks at everything.
    """
    fixed = bytearray(data)
    incompat = int.from_bytes(fixed[_INCOMPAT : _INCOMPAT + 4], "little") & ~Incompat.RECOVER
    fixed[_INCOMPAT : _INCOMPAT + 4] = incompat.to_bytes(4, "little")
    if has_error:
        fixed[_STATE] |= _ERROR_STATE
    if int.from_bytes(fixed[0x64:0x68], "little") & _METADATA_CHECKSUMS:
        checksum = crc32c(bytes(fixed[:_CHECKSUM]), 0xFFFFFFFF)
        fixed[_CHECKSUM:] = checksum.to_bytes(4, "little")
    return bytes(fixed)
