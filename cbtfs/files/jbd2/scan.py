"""The first two passes of a replay: the committed transactions of a log, and its revoke records."""

from dataclasses import dataclass, field
from typing import Final

from cbtfs.files.jbd2.checksum import BigEndianCrc32
from cbtfs.files.jbd2.log import MAGIC, Kind, Log, LogBlock
from cbtfs.files.jbd2.refusal import Reason, ReplayRefused, damaged

_MAX_REVOKED: Final = 1 << 21
_COMMIT_CRC32: Final = (1, 4)
"""Type and size of a checksum of version 1."""
_COMMIT_SECONDS: Final = slice(48, 56)


@dataclass(slots=True)
class Committed:
    """The blocks that describe the committed transactions, in order."""

    descriptors: list[tuple[int, int]] = field(default_factory=list)
    """Block of the log and its transaction."""
    revokes: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    """The first transaction that is not committed."""


def is_after(left: int, right: int) -> bool:
    """Return True if transaction *left* follows *right*; numbers wrap at 32 bits."""
    return 0 < (left - right) & 0xFFFFFFFF < 1 << 31


def scan(log: Log) -> Committed:
    """Return the committed transactions of a log that is not empty.

    A transaction without a commit block was interrupted and ends the log, and so does a commit
    block of a transaction with wrong checksums that is older than its predecessor: it is a rest of
    an earlier round. Linux and e2fsck decide by the same rules.

    Raises:
        ReplayRefused: a committed transaction is damaged.
    """
    return _Scan(log).run()


class _Scan:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._at = log.superblock.start
        self._left = log.superblock.blocks - log.superblock.first
        self._crc = BigEndianCrc32()
        self._is_doubtful = False
        """A checksum of the current transaction is wrong."""
        self._last_seconds = 0

    def run(self) -> Committed:
        log = self._log
        committed, current = Committed(), Committed()
        sequence = log.superblock.sequence
        while True:
            number = self._at
            block = log.described(number)
            self._advance(1)
            if block.magic != MAGIC or block.sequence != sequence:
                break
            if block.kind == Kind.DESCRIPTOR:
                current.descriptors.append((number, sequence))
                self._descriptor(block)
            elif block.kind == Kind.REVOKE:
                current.revokes.append((number, sequence))
                self._is_doubtful |= not log.is_descriptor_intact(block)
            elif block.kind == Kind.COMMIT:
                if not self._is_committed(block.data, sequence):
                    break
                committed.descriptors += current.descriptors
                committed.revokes += current.revokes
                current = Committed()
                sequence = (sequence + 1) & 0xFFFFFFFF
            else:
                break
        committed.end = sequence
        return committed

    def _advance(self, count: int) -> None:
        """Move *count* blocks on. A log that is longer than its journal repeats itself."""
        self._left -= count
        if self._left < 0:
            raise damaged("its log is longer than the journal")
        self._at = self._log.wrapped(self._at + count)

    def _descriptor(self, block: LogBlock) -> None:
        log = self._log
        self._is_doubtful |= not log.is_descriptor_intact(block)
        start, count = self._at, len(log.tags_of(block))
        self._advance(count)
        if log.superblock.version == 1:
            self._crc.update(block.data)
            for content in log.chunks(start, count):
                self._crc.update(content)

    def _is_committed(self, block: bytes, sequence: int) -> bool:
        """Return True for an intact transaction, False at the end of the log."""
        seconds = int.from_bytes(block[_COMMIT_SECONDS], "big")
        is_intact = not self._is_doubtful and self._log.is_commit_intact(block)
        if self._log.superblock.version == 1:
            stated = (block[12], block[13]), int.from_bytes(block[16:20], "big")
            is_intact &= stated in ((_COMMIT_CRC32, self._crc.value), ((0, 0), 0))
            self._crc = BigEndianCrc32()
        if is_intact:
            self._last_seconds = seconds
            return True
        if seconds < self._last_seconds:
            return False
        raise damaged(f"transaction {sequence} has a wrong checksum")


def revoked_blocks(log: Log, committed: Committed) -> dict[int, int]:
    """Return the last transaction that revoked each block of the file system.

    Raises:
        ReplayRefused: a record is damaged, or there are too many.
    """
    revoked: dict[int, int] = {}
    for number, sequence in committed.revokes:
        for block in log.revoked(log.described(number).data):
            revoked[block] = sequence
        if len(revoked) > _MAX_REVOKED:
            raise ReplayRefused(Reason.TOO_LARGE, "too many revoke records")
    return revoked
