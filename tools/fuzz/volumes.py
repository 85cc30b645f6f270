"""Fuzz targets for the parsers of partition tables, LVM2 metadata and superblocks."""

import contextlib
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from cbtfs.volumes.lvm.group import parse_group
from cbtfs.volumes.lvm.label import lvm_crc
from cbtfs.volumes.lvm.text import TextInvalid
from cbtfs.volumes.slices import MAX_SLICES, NamedDisk, Slices, find_slices
from cbtfs.volumes.superblocks import find_file_system


@dataclass(frozen=True, slots=True)
class _Disk:
    """A disk that starts with *head* and is zeros behind it."""

    head: bytes
    size: int

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < self.size
        return self.head[offset : offset + length].ljust(min(length, self.size - offset), b"\0")


def read_partitions(data: bytes) -> None:
    """Read partition tables: no slice leaves its disk, which has no byte more, few, or many."""
    for size in (len(data), len(data) + (1 << 16), 1 << 45):
        _check_slices(find_slices([NamedDisk(0, "disk", _Disk(data, size))]), size)


def _check_slices(slices: Slices, size: int) -> None:
    assert len({shown.path for shown in slices.shown}) == len(slices.shown) <= MAX_SLICES
    for shown in slices.shown:
        end = 0
        for segment in shown.segments:
            assert segment.start == end
            end = segment.end
            for offset in (segment.start, segment.end - 1):
                piece = segment.piece(offset, 1 << 20)
                assert 0 <= piece.offset < piece.offset + piece.length <= size


def read_lvm(data: bytes) -> None:
    """Read the metadata of a volume group: as a text, and from a physical volume."""
    with contextlib.suppress(TextInvalid):
        parse_group(data.decode("utf-8", "replace"))
    size = 1 << 26
    _check_slices(find_slices([NamedDisk(0, "disk", _Disk(_physical_volume(data), size))]), size)


def _physical_volume(text: bytes) -> bytes:
    """Return the start of a physical volume with that metadata and valid checksums."""
    text = text[: 1 << 18]
    areas = struct.pack("<32sQ8Q", b"1" * 32, 1 << 26, 1 << 20, 0, 0, 0, 4096, 1 << 19, 0, 0)
    tail = (struct.pack("<I8s", 32, b"LVM2 001") + areas).ljust(512 - 20, b"\0")
    label = b"LABELONE" + struct.pack("<QI", 1, lvm_crc(tail)) + tail
    area = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, 4096, 1 << 19)
    area += struct.pack("<QQII", 512, len(text), lvm_crc(text), 0)
    area = area.ljust(508, b"\0")
    head = bytes(512) + label + bytes(4096 - 1024)
    return head + lvm_crc(area).to_bytes(4, "little") + area + text


def partition_seeds() -> list[bytes]:
    """Return the starts of disks with partitions."""
    return [_a_gpt(), _an_mbr()]


def _a_gpt() -> bytes:
    """Return the start of a disk with a GPT of one partition."""
    table = struct.pack("<16s16xQQ", b"kind", 34, 40).ljust(512, b"\0")
    fields = (bytes(16), 2, 4, 128, zlib.crc32(table))
    header = struct.pack("<8sIII4xQQQQ16sQIII", b"EFI PART", 1, 92, 0, 1, 0, 0, 0, *fields)
    header = header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:]
    return _an_mbr(0xEE) + header.ljust(512, b"\0") + table


def _an_mbr(kind: int = 0x83) -> bytes:
    """Return the start of a disk with a primary partition and an extended one."""
    entries = struct.pack("<4xB3xII4xB3xII", kind, 1, 9, 5, 1, 9)
    return (bytes(446) + entries).ljust(510, b"\0") + b"\x55\xaa"


GROUP: Final = b"""# comment
vg { id = "111111-2222-2222-2222-2222-2222-333333" seqno = 1 extent_size = 2048
  physical_volumes { pv0 { id = "11111111111111111111111111111111" pe_start = 2048 pe_count = 9 } }
  logical_volumes {
    lv { status = ["VISIBLE"] segment_count = 2
      segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 2
        stripe_size = 128 stripes = ["pv0", 0, "pv0", 4] }
      segment2 { start_extent = 2 extent_count = 3 type = "striped" stripe_count = 1
        stripes = ["pv0", 1] } } } }
"""


def read_superblocks(data: bytes) -> None:
    """Recognize a file system: at the start of a volume, and at each place of a superblock."""
    for start in (0, 1024, 1 << 16):
        for size in (start + len(data), 1 << 45):
            found = find_file_system(_Disk(bytes(start) + data, size))
            assert found is None or (found.kind and found.devices >= 0)


def superblock_seeds() -> list[bytes]:
    """Return the start of a superblock of each kind."""
    ext = bytearray(1024)
    struct.pack_into("<H", ext, 0x38, 0xEF53)
    btrfs = bytearray(4096)
    btrfs[0x40:0x48] = b"_BHRfS_M"
    boot = [bytes(3) + name.ljust(507, b"\0") + b"\x55\xaa" for name in (b"NTFS    ", b"EXFAT   ")]
    fat = bytes(82) + b"FAT32   ".ljust(428, b"\0") + b"\x55\xaa"
    return [bytes(ext), bytes(btrfs), b"XFSB".ljust(512, b"\0"), *boot, fat]
