"""GUID partition tables: the primary one or, if it is damaged, its backup at the end of the disk.

Source: UEFI specification 2.10, chapter 5. Like Linux and sfdisk, this requires a protective MBR.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cbtfs.volumes.mbr import has_protective_entry
from cbtfs.volumes.source import Source, read_bytes
from cbtfs.volumes.table import Partition, PartitionTable, Skipped, entry_of

_SECTOR_BYTES: Final = (512, 4096)
_SIGNATURE: Final = b"EFI PART"
_HEADER: Final = struct.Struct("<8sIII4xQQQQ16sQIII")
_CRC_OFFSET: Final = 16
_ENTRY: Final = struct.Struct("<16s16sQQ8x72s")
_MIN_ENTRY_BYTES: Final = 128
_MAX_TABLE_BYTES: Final = 1 << 20
"""Largest entry array that is read. Tools write 16 KiB."""
_MAX_PARTITIONS: Final = 1024
"""More partitions are reported as skipped."""


@dataclass(frozen=True, slots=True)
class _Header:
    table: int
    """Sector of the entry array."""
    count: int
    entry_bytes: int
    crc: int


def find_gpt(source: Source) -> PartitionTable | None:
    """Return the GPT of a disk, or None if its first sector announces none."""
    if not has_protective_entry(read_bytes(source, 0, 512)):
        return None
    for sector in _SECTOR_BYTES:
        entries = _entries(source, sector, 1)
        if entries is not None:
            return _table(source, sector, entries, None)
    for sector in _SECTOR_BYTES:
        last = source.size // sector - 1
        entries = _entries(source, sector, last) if last > 1 else None
        if entries is not None:
            return _table(source, sector, entries, "the primary GPT is damaged; its backup is used")
    return PartitionTable("gpt", _SECTOR_BYTES[0], note="both copies of the GPT are damaged")


def _entries(source: Source, sector: int, lba: int) -> tuple[bytes, int] | None:
    """Return the entry array of the header at *lba* and the size of an entry, or None."""
    header = _header(read_bytes(source, lba * sector, sector), lba)
    if header is None:
        return None
    length = header.count * header.entry_bytes
    data = read_bytes(source, header.table * sector, length)
    if len(data) != length or zlib.crc32(data) != header.crc:
        return None
    return data, header.entry_bytes


def _header(data: bytes, lba: int) -> _Header | None:
    if len(data) < _HEADER.size:
        return None
    signature, _, length, crc, own, _, _, _, _, table, count, entry, table_crc = (
        _HEADER.unpack_from(data)
    )
    if signature != _SIGNATURE or own != lba or not _HEADER.size <= length <= len(data):
        return None
    zeroed = data[:_CRC_OFFSET] + bytes(4) + data[_CRC_OFFSET + 4 : length]
    if zlib.crc32(zeroed) != crc or entry < _MIN_ENTRY_BYTES or count * entry > _MAX_TABLE_BYTES:
        return None
    return _Header(table, count, entry, table_crc)


def _table(
    source: Source, sector: int, entries: tuple[bytes, int], note: str | None
) -> PartitionTable:
    data, entry_bytes = entries
    partitions: list[Partition] = []
    skipped: list[Skipped] = []
    for number, offset in enumerate(range(0, len(data), entry_bytes), 1):
        kind, own, first, last, label = _ENTRY.unpack_from(data, offset)
        if not any(kind):
            continue
        if len(partitions) == _MAX_PARTITIONS:
            skipped.append(Skipped(number, f"only {_MAX_PARTITIONS} partitions are shown"))
            break
        entry = entry_of(number, first * sector, (last + 1 - first) * sector, source.size)
        if isinstance(entry, Partition):
            text = label.decode("utf-16-le", "replace").partition("\0")[0]
            uuid, type_uuid = (str(UUID(bytes_le=value)) for value in (own, kind))
            partitions.append(Partition(number, entry.extent, uuid, text, type_uuid))
        else:
            skipped.append(entry)
    return PartitionTable("gpt", sector, tuple(partitions), tuple(skipped), note)
