"""A volume with the journal of its ext3 or ext4 replayed: nothing is written."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.files.jbd2.inode import journal_blocks
from cbtfs.files.jbd2.log import MAGIC, Log, LogBlock, Memo, emptied
from cbtfs.files.jbd2.refusal import damaged
from cbtfs.files.jbd2.scan import Committed, is_after, revoked_blocks, scan
from cbtfs.files.jbd2.superblock import (
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    Superblock,
    check_features,
    parse_superblock,
    recovered,
)
from cbtfs.volumes.source import Source, read_bytes

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes that replace those of the volume."""

    offset: int
    data: bytes

    def apply(self, target: bytearray, start: int) -> None:
        """Write the part of the patch that lies in *target*, which begins at offset *start*."""
        first = max(self.offset, start)
        end = min(self.offset + len(self.data), start + len(target))
        if first < end:
            target[first - start : end - start] = self.data[first - self.offset : end - self.offset]


class ReplayedVolume:
    """A volume as `e2fsck -E journal_only` leaves it, as a source.

    Differences: the superblock's time of the last write and its count of written kilobytes stay as
    they are. As with e2fsck, the list of orphans is kept: an inode on it has no name or is
    truncated to the size that it states, so that its blocks are not part of any file.
    Memory: about 100 bytes for each block that the journal replaces.
    """

    def __init__(
        self,
        source: Source,
        block_bytes: int,
        blocks: dict[int, int],
        escaped: frozenset[int],
        patches: tuple[Patch, ...],
    ) -> None:
        self._source = source
        self.block_bytes: Final = block_bytes
        self._blocks = blocks
        self._order = sorted(blocks)
        self._escaped = escaped
        self._patches = patches

    @property
    def size(self) -> int:
        return self._source.size

    def place(self, block: int) -> tuple[int, bool] | None:
        """Return the block of the volume that replaces a block, and whether it is escaped."""
        at = self._blocks.get(block)
        return None if at is None else (at, block in self._escaped)

    @property
    def replaced(self) -> list[int]:
        """Numbers of the blocks that the log replaces, ascending."""
        return self._order

    def replaced_in(self, first: int, end: int) -> list[int]:
        """Return the numbers in [first, end) of blocks that the log replaces, ascending."""
        return self._order[bisect_left(self._order, first) : bisect_left(self._order, end)]

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length), fewer only at the end.

        Raises:
            CbtfsError: the bytes cannot be read.
        """
        data = read_bytes(self._source, offset, length)
        size = self.block_bytes
        first = bisect_left(self._order, offset // size)
        end = bisect_left(self._order, -(-(offset + len(data)) // size))
        patches = [patch for patch in self._patches if patch.offset < offset + len(data)]
        patches = [patch for patch in patches if patch.offset + len(patch.data) > offset]
        if first == end and not patches:
            return data
        result = bytearray(data)
        for block in self._order[first:end]:
            for patch in self._content(block, offset, offset + len(data)):
                patch.apply(result, offset)
        for patch in patches:
            patch.apply(result, offset)
        return bytes(result)

    def _content(self, block: int, start: int, end: int) -> Iterator[Patch]:
        """Yield the part in [start, end) of the block as the log has it."""
        first = max(block * self.block_bytes, start)
        within = first - block * self.block_bytes
        length = min((block + 1) * self.block_bytes, end) - first
        data = read_bytes(self._source, self._blocks[block] * self.block_bytes + within, length)
        if len(data) < length:
            raise damaged("it leaves the volume")
        yield Patch(first, data)
        if block in self._escaped:
            yield Patch(block * self.block_bytes, _MAGIC_BYTES)


def replayed(
    source: Source,
    memo: Memo | None = None,
    is_changed: Callable[[int, int], bool] = lambda offset, length: True,
) -> ReplayedVolume | None:
    """Replay the journal of an ext3 or ext4 file system; None if it needs no recovery.

    None is also the result for volumes with other contents. Reads of the log are bounded by the
    size of the journal, which is at most 4 GiB.

    *memo*: the decoded blocks of a replay of the same volume at another point; this replay adds its
    own. *is_changed*: returns whether a byte of a range, by offset and length, may differ from
    that point.

    Raises:
        ReplayRefused: the journal cannot be replayed; its reason says why.
        CbtfsError: the volume cannot be read.
    """
    data = read_bytes(source, SUPERBLOCK, SUPERBLOCK_BYTES)
    superblock = parse_superblock(data, source.size)
    if superblock is None or not superblock.needs_recovery:
        return None
    if not superblock.has_journal:
        raise damaged("the file system needs a journal and has none")
    check_features(superblock)
    log = Log(source, superblock.block_bytes, journal_blocks(source, superblock), memo)
    log.forget(is_changed)
    return _replay(source, superblock, log)


def _replay(source: Source, superblock: Superblock, log: Log) -> ReplayedVolume:
    journal = log.superblock
    target = _Target(log, superblock)
    end = journal.sequence
    if journal.start:
        committed = scan(log)
        target.add(committed, revoked_blocks(log, committed))
        end = committed.end
    at = log.volume_block(0) * superblock.block_bytes
    plain = ReplayedVolume(
        source, superblock.block_bytes, target.blocks, frozenset(target.escaped), ()
    )
    # The log usually has a copy of the superblock, which says that recovery is needed.
    newest = plain.read(SUPERBLOCK, SUPERBLOCK_BYTES)
    if parse_superblock(newest, source.size) is None:
        raise damaged("its log replaces the superblock by other bytes")
    patches = (
        Patch(SUPERBLOCK, recovered(newest, journal.has_error)),
        Patch(at, emptied(journal, end + 1)),
    )
    return ReplayedVolume(
        source, superblock.block_bytes, target.blocks, frozenset(target.escaped), patches
    )


class _Target:
    """The third pass: which block of the log replaces which block of the file system."""

    def __init__(self, log: Log, superblock: Superblock) -> None:
        self._log = log
        self._count = superblock.blocks
        self.blocks: dict[int, int] = {}
        """Number of the block that replaces each block, both on the volume."""
        self.escaped: set[int] = set()

    def add(self, committed: Committed, revoked: dict[int, int]) -> None:
        """Add the blocks of all transactions; the last one that has a block wins."""
        log = self._log
        for number, sequence in committed.descriptors:
            descriptor = log.described(number)
            self._verify(number, descriptor, revoked)
            contents = log.contents_of(number, descriptor)
            for tag, content in zip(log.tags_of(descriptor), contents, strict=True):
                if not revoked or not _is_revoked(revoked, tag.block, sequence):
                    self._replace(tag.block, content, tag.is_escaped)

    def _verify(self, number: int, descriptor: LogBlock, revoked: dict[int, int]) -> None:
        """Compare the blocks of a descriptor, which follow it, with their checksums."""
        log, sequence = self._log, descriptor.sequence
        if not log.superblock.has_checksums or all(log.are_tags_intact(number, descriptor)):
            return
        for tag, is_intact in zip(
            log.tags_of(descriptor), log.are_tags_intact(number, descriptor), strict=True
        ):
            if not is_intact and not _is_revoked(revoked, tag.block, sequence):
                raise damaged(f"block {tag.block} in transaction {sequence} has a wrong checksum")

    def _replace(self, block: int, content: int, is_escaped: bool) -> None:
        if block >= self._count:
            raise damaged("its log has a block outside of the file system")
        self.blocks[block] = content
        if is_escaped:
            self.escaped.add(block)
        else:
            self.escaped.discard(block)


def _is_revoked(revoked: dict[int, int], block: int, sequence: int) -> bool:
    """Return True if the block was freed in this transaction or in a later one."""
    last = revoked.get(block)
    return last is not None and not is_after(sequence, last)
