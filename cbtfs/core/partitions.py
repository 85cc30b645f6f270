"""Where a disk's partitions lie, and the places that file systems cannot do without.

Sources: UEFI specification 2.10, chapter 5 (MBR and GPT); Linux, Documentation/filesystems/ext4
(superblock and its copies); btrfs on-disk format (superblock copies); NTFS as mkntfs lays it out.
The bytes come from a guest: whatever they say is clipped to the disk.
"""

import struct
from collections.abc import Iterator
from typing import Final

from cbtfs.core.extent import Extent, clip

HEAD_BYTES: Final = 32 << 10
"""The first bytes of a disk that hold its partition tables: 24 KiB where sectors have 4 KiB."""
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
"""What partitioning tools make room for; more are not looked at."""
_PLACES: Final = (
    0,  # boot sector, XFS, LVM's label, ext at 1 KiB
    4 << 10,  # LVM's metadata
    64 << 10,  # btrfs
    64 << 20,  # btrfs, the first copy
    128 << 20,  # ext, the first copy, with blocks of 4 KiB
    3 << 30,  # NTFS's $MFT
)


def find_partitions(head: bytes, size: int) -> list[Extent]:
    """Partitions of a disk of *size* bytes that starts with *head*: of its GPT, else its MBR.

    Logical partitions are not followed: their extended one stands for them.
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
    """The places that matter, a byte each: of the disk as a whole and of its partitions."""
    found = set()
    for area in (*clip([Extent(0, size or 1)], 0, size), *find_partitions(head, size)):
        found |= {area.start + place for place in _PLACES if place < area.length}
        found.add(area.end - 1)  # the GPT's copy, NTFS's copy of its boot sector
    return [Extent(place, 1) for place in sorted(found)]
