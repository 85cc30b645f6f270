"""Partitions of a disk, and the positions of superblocks and other critical structures.

Sources: UEFI specification 2.10, chapter 5 (MBR and GPT); Linux, Documentation/filesystems/ext4
(superblock and its copies); btrfs on-disk format (superblock copies); NTFS as mkntfs lays it out.
The bytes come from a guest, so every position is clipped to the disk.
"""

import struct
from collections.abc import Iterator
from typing import Final

from cbtfs.core.extent import Extent, clip

HEAD_BYTES: Final = 32 << 10
"""Bytes at the start of a disk with its partition tables, which take 24 KiB at 4 KiB sectors."""
_MBR_SECTOR: Final = 512
_MBR_TABLE: Final = 446
_MBR_ENTRY: Final = struct.Struct("<4xB3xII")
_MBR_ENTRIES: Final = 4
_MBR_SIGNATURE: Final = b"\x55\xaa"
_PROTECTIVE: Final = 0xEE
_GPT_SECTORS: Final = (512, 4096)
_GPT_HEADER: Final = struct.Struct("<8s64xQII")
_GPT_SIGNATURE: Final = b"EFI PART"
_GPT_ENTRY: Final = struct.Struct("<16s16xQQ")
_GPT_ENTRIES: Final = 128
"""Number of entries that partitioning tools create; more are ignored."""
_POSITIONS: Final = (
    0,  # boot sector, XFS, LVM's label, ext at 1 KiB
    4 << 10,  # LVM's metadata
    64 << 10,  # btrfs
    64 << 20,  # btrfs, the first copy
    128 << 20,  # ext, the first copy, with blocks of 4 KiB
    3 << 30,  # NTFS's $MFT
)


def find_partitions(head: bytes, size: int) -> list[Extent]:
    """Return the partitions in the GPT or else the MBR of a disk of *size* bytes with this *head*.

    Logical partitions are part of their extended partition and are not returned.
    """
    for sector in _GPT_SECTORS:
        if head[sector : sector + len(_GPT_SIGNATURE)] == _GPT_SIGNATURE:
            return list(clip(_gpt(head, sector), 0, size))
    if head[_MBR_SECTOR - 2 : _MBR_SECTOR] == _MBR_SIGNATURE:
        return list(clip(_mbr(head), 0, size))
    return []


def _gpt(head: bytes, sector: int) -> Iterator[Extent]:
    if len(head) < sector + _GPT_HEADER.size:
        return
    _, table, count, entry = _GPT_HEADER.unpack_from(head, sector)
    if entry < _GPT_ENTRY.size:
        return
    for number in range(min(count, _GPT_ENTRIES)):
        at = table * sector + number * entry
        if at + _GPT_ENTRY.size > len(head):
            return
        kind, first, last = _GPT_ENTRY.unpack_from(head, at)
        if any(kind) and first <= last:
            yield Extent(first * sector, (last + 1 - first) * sector)


def _mbr(head: bytes) -> Iterator[Extent]:
    for number in range(_MBR_ENTRIES):
        kind, first, count = _MBR_ENTRY.unpack_from(head, _MBR_TABLE + number * _MBR_ENTRY.size)
        if kind not in (0, _PROTECTIVE) and count:
            yield Extent(first * _MBR_SECTOR, count * _MBR_SECTOR)


def superblocks(head: bytes, size: int) -> list[Extent]:
    """Return critical positions of the disk and of its partitions, as extents of one byte."""
    positions = set()
    for area in (*clip([Extent(0, size or 1)], 0, size), *find_partitions(head, size)):
        positions |= {area.start + offset for offset in _POSITIONS if offset < area.length}
        positions.add(area.end - 1)  # Copies of the GPT and of NTFS's boot sector.
    return [Extent(position, 1) for position in sorted(positions)]
