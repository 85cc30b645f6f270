"""MBR partition tables with logical partitions.

Sources: UEFI specification 2.10, chapter 5; Linux, block/partitions/msdos.c. A table counts in
sectors and does not contain their size: see _sector_bytes().
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.volumes.source import Source, read_bytes
from cbtfs.volumes.table import Partition, PartitionTable, Skipped, entry_of

_SECTOR_BYTES: Final = (512, 4096)
_DISK_SIGNATURE: Final = 440
_TABLE: Final = 446
_ENTRY: Final = struct.Struct("<B3xB3xII")
_ENTRIES: Final = 4
_MBR_BYTES: Final = 512
_MBR_SIGNATURE: Final = b"\x55\xaa"
_ACTIVE: Final = (0, 0x80)
_PROTECTIVE: Final = 0xEE
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_FIRST_LOGICAL: Final = 5
_MAX_LOGICAL: Final = 100
"""Length at which Linux stops to follow a chain of logical partitions."""
_SIGNATURES: Final = (
    (510, b"\x55\xaa"),  # NTFS, FAT, and the table of an extended partition
    (0, b"XFSB"),
    (0, b"LUKS"),
    (1080, b"\x53\xef"),  # ext
    (512, b"LABELONE"),  # LVM
    (4086, b"SWAPSPACE2"),
)
"""Offsets and magic numbers in the first 4 KiB of a partition."""
_FILE_SYSTEMS: Final = (
    *((3, b"NTFS    "), (3, b"EXFAT   "), (3, b"-FVE-FS-")),
    *((54, b"FAT12   "), (54, b"FAT16   "), (82, b"FAT32   ")),
)
"""Offsets and names in boot sectors, whose code can look like a table; as libblkid."""
_BTRFS: Final = (65536 + 64, b"_BHRfS_M")


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    first: int
    """First sector; relative in the table of an extended partition."""
    count: int

    @property
    def is_extended(self) -> bool:
        return self.kind in _EXTENDED


def _entries(table: bytes) -> list[_Entry] | None:
    """Return the entries of a table, or None if *table* is not one."""
    if table[_MBR_BYTES - 2 : _MBR_BYTES] != _MBR_SIGNATURE:
        return None
    fields = [_ENTRY.unpack_from(table, _TABLE + at * _ENTRY.size) for at in range(_ENTRIES)]
    if any(active not in _ACTIVE for active, *_ in fields):
        return None  # boot code of a file system
    return [_Entry(kind, first, count) for _, kind, first, count in fields]


def has_protective_entry(sector: bytes) -> bool:
    """Return True if the first sector of a disk announces a GPT."""
    if sector[_MBR_BYTES - 2 : _MBR_BYTES] != _MBR_SIGNATURE:
        return False
    fields = (_ENTRY.unpack_from(sector, _TABLE + at * _ENTRY.size) for at in range(_ENTRIES))
    return any(kind == _PROTECTIVE and first == 1 for _, kind, first, _ in fields)


def find_mbr(source: Source) -> PartitionTable | None:
    """Return the MBR partition table of a disk, or None. Extended partitions are not included."""
    head = read_bytes(source, 0, _MBR_BYTES)
    if any(head[at : at + len(name)] == name for at, name in _FILE_SYSTEMS):
        return None
    entries = _entries(head)
    if entries is None or not any(entry.kind and entry.count for entry in entries):
        return None
    sector = _sector_bytes(source, entries)
    signature = int.from_bytes(head[_DISK_SIGNATURE : _DISK_SIGNATURE + 4], "little")
    partitions: list[Partition] = []
    skipped: list[Skipped] = []
    for number, first, count in (*_primary(entries), *_logical(source, entries, sector)):
        entry = entry_of(number, first * sector, count * sector, source.size)
        if isinstance(entry, Partition):
            uuid = f"{signature:08x}-{number:02x}" if signature else ""
            partitions.append(Partition(number, entry.extent, uuid))
        else:
            skipped.append(entry)
    return PartitionTable("mbr", sector, tuple(partitions), tuple(skipped))


def _primary(entries: list[_Entry]) -> Iterator[tuple[int, int, int]]:
    for number, entry in enumerate(entries, 1):
        if entry.kind and entry.count and not entry.is_extended:
            yield number, entry.first, entry.count


def _logical(source: Source, entries: list[_Entry], sector: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first sector and sectors of each logical partition."""
    extended = next((entry for entry in entries if entry.is_extended and entry.count), None)
    if extended is None:
        return
    number, at = _FIRST_LOGICAL, extended.first
    visited: set[int] = set()
    while at not in visited and len(visited) < _MAX_LOGICAL:
        visited.add(at)
        chained = _entries(read_bytes(source, at * sector, _MBR_BYTES))
        if chained is None:
            return
        for entry in chained[:2]:
            if entry.kind and entry.count and not entry.is_extended:
                yield number, at + entry.first, entry.count
                number += 1
        following = next((entry for entry in chained if entry.is_extended and entry.count), None)
        if following is None:
            return
        at = extended.first + following.first


def _sector_bytes(source: Source, entries: list[_Entry]) -> int:
    """Return the sector size with which more partitions start with a known signature.

    512 if there is no difference: that is the size of nearly all virtual disks.
    """
    used = [entry for entry in entries if entry.kind and entry.count]
    small, large = _SECTOR_BYTES
    if any((entry.first + entry.count) * large > source.size for entry in used):
        return small
    hits = {
        sector: sum(_has_signature(source, entry.first * sector) for entry in used)
        for sector in _SECTOR_BYTES
    }
    return large if hits[large] > hits[small] else small


def _has_signature(source: Source, start: int) -> bool:
    head = read_bytes(source, start, 4096)
    if any(head[at : at + len(magic)] == magic for at, magic in _SIGNATURES):
        return True
    at, magic = _BTRFS
    return read_bytes(source, start + at, len(magic)) == magic
