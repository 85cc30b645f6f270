"""XFS, and whether its log ends with an unmount record.

Sources: Linux, fs/xfs/libxfs/xfs_format.h, xfs_log_format.h, and fs/xfs/xfs_log_recover.c. All
numbers are big-endian. The log is an array of blocks of 512 bytes. The first word of each block is
the number of the round in which it was written, except in a record header, which has it second.
"""

import struct
from typing import Final

from cbtfs.files.probe.values import NOTHING, Kind, Probe, State, named_bits, text_of, uuid_of
from cbtfs.volumes.source import Source, read_bytes

_BASIC: Final = 512
_RECORD_MAGIC: Final = 0xFEEDBABE
_MAX_RECORD_BLOCKS: Final = 512 + 8
"""Blocks of the largest record, 256 KiB, and of its header."""
_HEADER_BYTES: Final = 32 << 10
"""Content that one block of a header describes."""
_MAX_LOG_BYTES: Final = 2 << 30
_UNMOUNT: Final = 0x20
_INCOMPAT: Final = {
    0x1: "ftype",
    0x2: "sparse",
    0x4: "meta_uuid",
    0x8: "bigtime",
    0x10: "needsrepair",
    0x20: "nrext64",
    0x40: "exchange",
    0x80: "parent",
    0x100: "metadir",
}
_RO_COMPAT: Final = {0x1: "finobt", 0x2: "rmapbt", 0x4: "reflink", 0x8: "inobtcount"}


def probe_xfs(source: Source) -> Probe | None:
    """Probe an XFS superblock and the end of its log, or return None."""
    data = read_bytes(source, 0, 512)
    if data[:4] != b"XFSB" or len(data) < 512:
        return None
    (block_bytes,) = struct.unpack_from(">I", data, 4)
    if block_bytes not in (1 << shift for shift in range(9, 17)):
        return NOTHING
    (version,) = struct.unpack_from(">H", data, 100)
    features = [f"v{version & 15}"]
    if version & 15 == 5:
        _, ro_compat, incompat, log_incompat = struct.unpack_from(">IIII", data, 208)
        features += named_bits(incompat, _INCOMPAT, "incompat")
        features += named_bits(ro_compat, _RO_COMPAT, "ro-compat")
        features += named_bits(log_incompat, {}, "log-incompat")
    state, detail = _log_state(source, data, block_bytes)
    if "needsrepair" in features:
        state, detail = State.UNCLEAN, "it needs xfs_repair"
    uuid, label = uuid_of(data[32:48]), text_of(data[108:120])
    return Probe(Kind.XFS, state, uuid, label, frozenset(features), detail)


def _log_state(source: Source, superblock: bytes, block_bytes: int) -> tuple[State, str]:
    (start,) = struct.unpack_from(">Q", superblock, 48)
    group_blocks, _, _, log_blocks = struct.unpack_from(">IIII", superblock, 84)
    shift = superblock[124]
    if not start:
        return State.UNKNOWN, "its log is on another device"
    group, block = start >> shift, start & ((1 << shift) - 1)
    offset = (group * group_blocks + block) * block_bytes
    length = log_blocks * block_bytes
    if not 0 < length <= _MAX_LOG_BYTES or offset + length > source.size:
        return State.UNKNOWN, "its log is outside of the volume"
    return _Log(source, offset, length // _BASIC).state()


class _Log:
    """A log by the numbers of its blocks of 512 bytes."""

    def __init__(self, source: Source, offset: int, count: int) -> None:
        self._source = source
        self._offset = offset
        self._count = count

    def state(self) -> tuple[State, str]:
        """Return CLEAN if the last record says that the file system was unmounted."""
        if not self._round(0):
            return State.UNKNOWN, "its log is empty"
        head = self._head()
        return (
            (State.CLEAN, "")
            if self._ends_with_unmount(head)
            else (State.PENDING, "its log needs a replay")
        )

    def _read(self, first: int, count: int) -> bytes:
        """Return *count* blocks from *first* on, which may be negative: from the end."""
        if first < 0:
            return self._read(self._count + first, min(-first, count)) + self._read(
                0, count + first
            )
        if count <= 0:
            return b""
        return read_bytes(self._source, self._offset + first * _BASIC, count * _BASIC)

    def _round(self, number: int) -> int:
        data = self._read(number, 1)
        is_header = int.from_bytes(data[:4], "big") == _RECORD_MAGIC
        return int.from_bytes(data[4:8] if is_header else data[:4], "big")

    def _head(self) -> int:
        """Return the block that follows the last one written.

        Blocks before it have the number of the current round, the others that of the one before.
        """
        low, high = 0, self._count - 1
        last = self._round(high)
        if self._round(low) == last:
            return self._count
        while high - low > 1:
            middle = (low + high) // 2
            if self._round(middle) == last:
                high = middle
            else:
                low = middle
        return high

    def _ends_with_unmount(self, head: int) -> bool:
        count = min(_MAX_RECORD_BLOCKS, self._count)
        data = self._read(head - count, count)
        magic = _RECORD_MAGIC.to_bytes(4, "big")
        starts = range(len(data) - _BASIC, -1, -_BASIC)
        at = next((at for at in starts if data[at : at + 4] == magic), None)
        if at is None:
            return False
        version, length = struct.unpack_from(">II", data, at + 8)
        (operations,) = struct.unpack_from(">I", data, at + 40)
        (record_bytes,) = struct.unpack_from(">I", data, at + 320)
        header = 1
        if version & 2 and record_bytes > _HEADER_BYTES:
            header = -(-record_bytes // _HEADER_BYTES)
        end = at + (header + -(-length // _BASIC)) * _BASIC
        flags = at + header * _BASIC + 9
        return end == len(data) and operations == 1 and flags < end and bool(data[flags] & _UNMOUNT)
