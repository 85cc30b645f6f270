"""Fuzz target for the replay of journals."""

import contextlib
import struct
from dataclasses import dataclass
from typing import Final

from cbtfs.errors import CbtfsError
from cbtfs.files.jbd2.checksum import SEED, crc32c_without
from cbtfs.files.jbd2.log import HEADER, MAGIC, Kind, Memo
from cbtfs.files.jbd2.replay import replayed
from cbtfs.native import crc32c

_BLOCK: Final = 1024
_BLOCKS: Final = 4096
_JOURNAL: Final = 64
"""First block of the journal."""
_LENGTH: Final = 1024
_FEATURES: Final = ((0, 0), (0, 3), (0, 0x1B), (0, 0x11), (0, 0x0B), (1, 1))
"""Compatible and incompatible features: none, wide, versions 3, 2 and 1 of checksums."""


@dataclass(slots=True)
class _Volume:
    """A volume in memory that counts the bytes read."""

    parts: dict[int, bytes]
    size: int = _BLOCK * _BLOCKS
    total: int = 0

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < self.size
        length = min(length, self.size - offset)
        self.total += length
        assert self.total < 64 << 20
        result = bytearray(length)
        for start, data in self.parts.items():
            first, end = max(start, offset), min(start + len(data), offset + length)
            if first < end:
                result[first - offset : end - offset] = data[first - start : end - start]
        return bytes(result)


def replay(data: bytes) -> None:
    """Replay a journal: the start of a volume, then the log of a valid one."""
    _check(_Volume({0: data}))
    superblock = head()
    _check(_Volume({0: superblock[:1024] + data}))
    for compat, incompat in _FEATURES:
        log = journal_superblock(compat, incompat) + _repaired(data, incompat)
        _check(_Volume({0: superblock, _JOURNAL * _BLOCK: log[: _LENGTH * _BLOCK]}))


def _check(volume: _Volume) -> None:
    with contextlib.suppress(CbtfsError):
        memo = Memo()
        result = replayed(volume, memo)
        if result is not None:
            again = replayed(volume, memo, lambda offset, length: False)
            assert again is not None
            assert again.replaced == result.replaced
            assert all(again.place(block) == result.place(block) for block in result.replaced)
            assert all(0 <= block < volume.size // result.block_bytes for block in result.replaced)
            for block in (0, *result.replaced[:4], *result.replaced[-4:]):
                for offset, length in ((block * _BLOCK, 3000), (block * _BLOCK + 7, 9)):
                    expected = max(min(length, volume.size - offset), 0)
                    assert len(result.read(offset, length)) == expected


def head() -> bytes:
    """Return the start of a volume that needs the replay of a journal of 1,024 blocks."""
    superblock = bytearray(1024)
    struct.pack_into("<II", superblock, 0, 32, _BLOCKS)
    struct.pack_into("<III", superblock, 0x14, 1, 0, 0)
    struct.pack_into("<I", superblock, 0x28, 32)
    struct.pack_into("<HHH", superblock, 0x38, 0xEF53, 0, 0)
    struct.pack_into("<III", superblock, 0x4C, 1, 0, 11)
    struct.pack_into("<HHIII", superblock, 0x58, 128, 0, 0x4, 0x4 | 0x40, 0)
    struct.pack_into("<I", superblock, 0xE0, 8)
    descriptor = struct.pack("<III", 3, 4, 5).ljust(_BLOCK, b"\0")
    inode = bytearray(128)
    struct.pack_into("<HHI", inode, 0, 0x8180, 0, _LENGTH * _BLOCK)
    struct.pack_into("<I", inode, 0x20, 0x80000)
    struct.pack_into("<HHHH4xIHHI", inode, 0x28, 0xF30A, 1, 4, 0, 0, _LENGTH, 0, _JOURNAL)
    table = bytes(7 * 128) + inode
    return bytes(1024) + bytes(superblock) + descriptor + bytes(2 * _BLOCK) + table


def journal_superblock(compat: int, incompat: int) -> bytes:
    """Return the first block of a journal whose log begins in its next block."""
    block = bytearray(_BLOCK)
    HEADER.pack_into(block, 0, MAGIC, Kind.SUPERBLOCK_2, 0)
    struct.pack_into(">IIIII", block, 12, _BLOCK, _LENGTH, 1, 7, 1)
    struct.pack_into(">III", block, 36, compat, incompat, 0)
    block[0x50] = 4
    block[0xFC:0x100] = crc32c_without(bytes(block), 0xFC).to_bytes(4, "big")
    return bytes(block)


def _repaired(data: bytes, incompat: int) -> bytes:
    """Return the blocks of a log, with valid checksums if they have some."""
    if not incompat & 0x18:
        return data
    seed = crc32c(bytes(16), SEED)
    blocks = []
    for at in range(0, len(data), _BLOCK):
        block = bytearray(data[at : at + _BLOCK].ljust(_BLOCK, b"\0"))
        magic, kind, _ = HEADER.unpack_from(block)
        if magic == MAGIC:
            place = 16 if kind == Kind.COMMIT else _BLOCK - 4
            block[place : place + 4] = crc32c_without(bytes(block), place, seed).to_bytes(4, "big")
        blocks.append(bytes(block))
    return b"".join(blocks)


def a_log() -> bytes:
    """Return a log of two transactions, the second of which revokes a block of the first."""
    first = HEADER.pack(MAGIC, Kind.DESCRIPTOR, 7) + struct.pack(">IHHI", 200, 0, 0, 0) + bytes(16)
    first += struct.pack(">IHHI", 201, 0, 0xB, 0)
    revoke = HEADER.pack(MAGIC, Kind.REVOKE, 8) + struct.pack(">IQ", 24, 200)
    second = HEADER.pack(MAGIC, Kind.DESCRIPTOR, 8) + struct.pack(">IHHI", 202, 0, 0x8, 0)
    commits = [HEADER.pack(MAGIC, Kind.COMMIT, number) for number in (7, 8)]
    blocks = (
        first,
        b"content 200",
        b"\0\0\0\0escaped",
        commits[0],
        revoke,
        second,
        b"x",
        commits[1],
    )
    return b"".join(block.ljust(_BLOCK, b"\0") for block in blocks)


def seeds() -> list[bytes]:
    """Return a log, and the start of a volume."""
    return [a_log(), head()]
