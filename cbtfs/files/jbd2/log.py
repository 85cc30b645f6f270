"""The log of a journal: its superblock, and its transactions from the tail to the end."""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from cbtfs.files.jbd2.checksum import SEED, crc32c_without
from cbtfs.files.jbd2.inode import BlockMap
from cbtfs.files.jbd2.refusal import Reason, ReplayRefused, damaged
from cbtfs.native import crc32c
from cbtfs.volumes.source import Source, read_bytes

MAGIC: Final = 0xC03B3998
SUPERBLOCK_BYTES: Final = 1024
_MIN_BLOCKS: Final = 1024
_CHECKSUM_AT: Final = 0xFC
_CRC32C: Final = 4
_WINDOW_BYTES: Final = 1 << 17
"""Bytes that are read at once while the log is scanned."""
HEADER: Final = struct.Struct(">III")
TAIL_BYTES: Final = 4
_UUID_BYTES: Final = 16


class Kind(IntEnum):
    """Types of the blocks that describe a transaction."""

    DESCRIPTOR = 1
    COMMIT = 2
    SUPERBLOCK_1 = 3
    SUPERBLOCK_2 = 4
    REVOKE = 5


class Incompat(IntFlag):
    """Features of a journal without which it must not be replayed."""

    REVOKE = 0x1
    WIDE = 0x2
    ASYNC_COMMIT = 0x4
    CHECKSUM_2 = 0x8
    CHECKSUM_3 = 0x10
    FAST_COMMIT = 0x20


_KNOWN: Final = sum(Incompat)
_CHECKSUM_1: Final = 1
"""The compatible feature of checksums in commit blocks only."""


# Flags of a tag.
_ESCAPED: Final = 1
_SAME_UUID: Final = 2
_LAST: Final = 8


class Tag(NamedTuple):
    """One block of a transaction."""

    block: int
    """Its number in the file system."""
    is_escaped: bool
    """Its first four bytes are the magic number, which the log replaces by zeros."""
    checksum: int


@dataclass(slots=True, eq=False)
class LogBlock:
    """A block of a log that can describe a transaction, and its decoded content.

    Only methods of Log set the members that can be None. They follow from the bytes of this block
    and those of the blocks of its tags.
    """

    data: bytes
    magic: int
    kind: int
    sequence: int
    tags: Sequence[Tag] | None = None
    is_intact: bool | None = None
    """Whether its checksum fits."""
    are_intact: Sequence[bool] | None = None
    """Whether the checksum of each tag fits."""
    contents: Sequence[int] | None = None
    """Block of the volume that has the content of each tag."""
    places: Sequence[tuple[int, int]] | None = None
    """Offset and length on the volume of this block and of those of its tags."""


class Memo:
    """Blocks of a log that are equal in the log of the same journal at another point."""

    def __init__(self) -> None:
        self.journal: object = None
        """Facts that decide what the bytes of a block mean."""
        self.blocks: dict[int, LogBlock] = {}
        """By their number in the journal."""


@dataclass(frozen=True, slots=True)
class JournalSuperblock:
    """The superblock of a journal."""

    data: bytes
    blocks: int
    first: int
    """First block of the log; it continues there after its last block."""
    sequence: int
    """Transaction at the tail of the log."""
    start: int
    """Block of the tail; 0 if the log is empty."""
    has_error: bool
    is_wide: bool
    """Block numbers have 64 bits."""
    version: int
    """Version of the checksums, 0 for none: 1 is in commit blocks, 2 and 3 are in every block."""
    tag_bytes: int
    seed: int

    @property
    def has_checksums(self) -> bool:
        """Return True if every block has a checksum."""
        return self.version > 1


def parse_journal_superblock(data: bytes, block_bytes: int, count: int) -> JournalSuperblock:
    """Parse the superblock of a journal that has *count* blocks.

    Raises:
        ReplayRefused: it is damaged, or it has a feature that is not known.
    """
    magic, kind, _ = HEADER.unpack_from(data)
    if magic != MAGIC or kind not in (Kind.SUPERBLOCK_1, Kind.SUPERBLOCK_2):
        raise damaged("its superblock is invalid")
    size, blocks, first, sequence, start, error = struct.unpack_from(">IIIIIi", data, 12)
    compat = features = ro_compat = 0
    if kind == Kind.SUPERBLOCK_2:
        compat, features, ro_compat = struct.unpack_from(">III", data, 36)
    if features & Incompat.FAST_COMMIT:
        raise ReplayRefused(Reason.FAST_COMMIT)
    if unknown := features & ~_KNOWN or ro_compat:
        raise ReplayRefused(Reason.UNKNOWN_FEATURE, f"journal, {unknown:#x}")
    versions = (
        compat & _CHECKSUM_1,
        features & Incompat.CHECKSUM_2,
        features & Incompat.CHECKSUM_3,
    )
    if sum(map(bool, versions)) > 1:
        raise damaged("its superblock has two kinds of checksums")
    version = next((number for number, bit in enumerate(versions, 1) if bit), 0)
    is_wide = bool(features & Incompat.WIDE)
    superblock = JournalSuperblock(
        data=bytes(data[:SUPERBLOCK_BYTES]),
        blocks=blocks,
        first=first,
        sequence=sequence,
        start=start,
        has_error=error != 0,
        is_wide=is_wide,
        version=version,
        tag_bytes=16 if version == 3 else 8 + 4 * is_wide + 2 * (version == 2),
        seed=crc32c(bytes(data[0x30:0x40]), SEED),
    )
    if superblock.has_checksums:
        if data[0x50] != _CRC32C:
            raise ReplayRefused(Reason.UNKNOWN_FEATURE, f"journal, checksum type {data[0x50]}")
        if superblock_checksum(superblock.data) != _checksum(superblock.data, _CHECKSUM_AT):
            raise damaged("its superblock has a wrong checksum")
    if size != block_bytes or not _MIN_BLOCKS <= blocks <= count:
        raise damaged("its superblock has an invalid size")
    if not 0 < first < blocks or (start and not first <= start < blocks):
        raise damaged("its superblock has an invalid start")
    return superblock


def superblock_checksum(data: bytes) -> int:
    """Return the checksum that the superblock of a journal should have."""
    return crc32c_without(data, _CHECKSUM_AT)


def emptied(superblock: JournalSuperblock, sequence: int) -> bytes:
    """Return the superblock of the journal after its replay: empty, next transaction *sequence*."""
    fixed = bytearray(superblock.data)
    fixed[0x18:0x20] = struct.pack(">II", sequence & 0xFFFFFFFF, 0)
    if superblock.has_checksums:
        checksum = superblock_checksum(bytes(fixed))
        fixed[_CHECKSUM_AT : _CHECKSUM_AT + 4] = checksum.to_bytes(4, "big")
    return bytes(fixed)


def _checksum(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


class Log:
    """The blocks of a log by their number in the journal."""

    def __init__(
        self, source: Source, block_bytes: int, blocks: BlockMap, memo: Memo | None = None
    ) -> None:
        """*memo* gets the blocks that are decoded, and has some that are not read again."""
        self._source = source
        self._block_bytes = block_bytes
        self._map = blocks
        self._window = b""
        self._window_first = 0
        superblock = read_bytes(source, blocks.block(0) * block_bytes, SUPERBLOCK_BYTES)
        if len(superblock) < SUPERBLOCK_BYTES:
            raise damaged("it leaves the volume")
        self.superblock: Final = parse_journal_superblock(superblock, block_bytes, blocks.count)
        self._memo = memo or Memo()
        journal = self.superblock
        facts = (block_bytes, blocks, journal.first, journal.blocks, journal.seed)
        layout = (journal.version, journal.is_wide, journal.tag_bytes)
        if self._memo.journal != (facts, layout):
            self._memo.journal = facts, layout
            self._memo.blocks.clear()

    def volume_block(self, number: int) -> int:
        """Return the number of the block of the volume that has block *number* of the log."""
        return self._map.block(number)

    def wrapped(self, number: int) -> int:
        """Return the number of a block that is at most one round behind the last block."""
        superblock = self.superblock
        if number >= superblock.blocks:
            number -= superblock.blocks - superblock.first
        return number

    def block(self, number: int) -> bytes:
        """Return a block of the log; blocks behind it are read, too."""
        size = self._block_bytes
        at = (number - self._window_first) * size
        if not 0 <= at < len(self._window):
            count = min(max(_WINDOW_BYTES // size, 1), self.superblock.blocks - number)
            self._window = self._read(number, count)
            self._window_first, at = number, 0
        return self._window[at : at + size]

    def described(self, number: int) -> LogBlock:
        """Return a block of the log with its header decoded."""
        block = self._memo.blocks.get(number)
        if block is None:
            data = self.block(number)
            block = LogBlock(data, *HEADER.unpack_from(data))
            if self.superblock.version != 1:  # Its checksums are over all blocks, which are read.
                self._memo.blocks[number] = block
        return block

    def forget(self, is_changed: Callable[[int, int], bool]) -> None:
        """Drop the blocks of the memo that differ from those of this log.

        *is_changed*: returns whether a byte of a range of the volume, by offset and length, may
        differ.
        """
        blocks = self._memo.blocks
        for number, block in list(blocks.items()):
            if block.places is None:
                block.places = list(self._places(number, 1 + len(block.tags or ())))
            if any(is_changed(offset, length) for offset, length in block.places):
                del blocks[number]

    def _places(self, number: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield offset and length on the volume of *count* blocks, across the end of the log."""
        size = self._block_bytes
        while count:
            length = min(count, self.superblock.blocks - number)
            for run in self._map.pieces(number, length):
                yield run.block * size, run.length * size
            count -= length
            number = self.wrapped(number + length)

    def chunks(self, number: int, count: int) -> Iterator[bytes]:
        """Yield *count* blocks from *number* on, one by one, across the end of the log."""
        while count:
            length = min(
                count, self.superblock.blocks - number, max(1, (1 << 20) // self._block_bytes)
            )
            data = self._read(number, length)
            for at in range(0, len(data), self._block_bytes):
                yield data[at : at + self._block_bytes]
            number = self.wrapped(number + length)
            count -= length

    def _read(self, number: int, count: int) -> bytes:
        size = self._block_bytes
        pieces = self._map.pieces(number, count)
        data = b"".join(read_bytes(self._source, p.block * size, p.length * size) for p in pieces)
        if len(data) < count * size:
            raise damaged("it leaves the volume")
        return data

    def tags(self, descriptor: bytes) -> list[Tag]:
        """Return the tags of a descriptor block."""
        superblock = self.superblock
        size = superblock.tag_bytes
        end = len(descriptor) - (TAIL_BYTES if superblock.has_checksums else 0)
        tags, at = [], HEADER.size
        while at + size <= end:
            block, checksum, flags = struct.unpack_from(">IHH", descriptor, at)
            if superblock.is_wide:
                block |= _checksum(descriptor, at + 8) << 32
            if superblock.version == 3:
                checksum = _checksum(descriptor, at + 12)
            tags.append(Tag(block, bool(flags & _ESCAPED), checksum))
            at += size + (0 if flags & _SAME_UUID else _UUID_BYTES)
            if flags & _LAST:
                break
        return tags

    def tags_of(self, block: LogBlock) -> Sequence[Tag]:
        """Return the tags of a descriptor block."""
        if block.tags is None:
            block.tags = self.tags(block.data)
            block.places = None
        return block.tags

    def is_descriptor_intact(self, block: LogBlock) -> bool:
        """Return True if a descriptor or revoke block has the checksum that its end states."""
        if block.is_intact is None:
            block.is_intact = self.is_tail_intact(block.data)
        return block.is_intact

    def contents_of(self, number: int, block: LogBlock) -> Sequence[int]:
        """Return the block of the volume with the content of each tag of a descriptor."""
        if block.contents is None:
            first = self.wrapped(number + 1)
            numbers = range(first, first + len(self.tags_of(block)))
            block.contents = [self.volume_block(self.wrapped(at)) for at in numbers]
        return block.contents

    def are_tags_intact(self, number: int, block: LogBlock) -> Sequence[bool]:
        """Return for each tag of a descriptor, block *number*, whether its content is intact."""
        if block.are_intact is None:
            tags = self.tags_of(block)
            contents = self.chunks(self.wrapped(number + 1), len(tags))
            block.are_intact = [
                self.is_intact(tag, content, block.sequence)
                for tag, content in zip(tags, contents, strict=True)
            ]
        return block.are_intact

    def revoked(self, block: bytes) -> Iterator[int]:
        """Yield the numbers of the file system's blocks in a revoke block."""
        superblock = self.superblock
        end = _checksum(block, HEADER.size)
        if end > len(block) - (TAIL_BYTES if superblock.has_checksums else 0):
            raise damaged("invalid revoke record")
        size = 8 if superblock.is_wide else 4
        for at in range(HEADER.size + 4, end - size + 1, size):
            yield int.from_bytes(block[at : at + size], "big")

    def is_tail_intact(self, block: bytes) -> bool:
        """Return True if a descriptor or revoke block has the checksum that its end states."""
        if not self.superblock.has_checksums:
            return True
        at = len(block) - TAIL_BYTES
        return crc32c_without(block, at, self.superblock.seed) == _checksum(block, at)

    def is_commit_intact(self, block: bytes) -> bool:
        """Return True if a commit block has the checksum of version 2 or 3 that it states."""
        if not self.superblock.has_checksums:
            return True
        return crc32c_without(block, 16, self.superblock.seed) == _checksum(block, 16)

    def is_intact(self, tag: Tag, content: bytes, sequence: int) -> bool:
        """Return True if the content of a tag has its checksum."""
        superblock = self.superblock
        if not superblock.has_checksums:
            return True
        checksum = crc32c(content, crc32c(sequence.to_bytes(4, "big"), superblock.seed))
        if superblock.version == 2:
            checksum &= 0xFFFF
        return checksum == tag.checksum
