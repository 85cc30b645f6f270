"""The file system in a slice, from its superblock. Pure.

Sources: the kernel's ext4 documentation and fs/xfs/libxfs/xfs_format.h, the btrfs on-disk format,
libfsntfs, and Microsoft's FAT specification. A superblock that is damaged is often found by its
backup, so backups are looked for only without a primary one.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.volumes.source import Source, read_bytes

_EXT_MAGIC: Final = 0xEF53
_EXT_START: Final = 1024
_EXT_HAS_JOURNAL: Final = 0x4
_EXT_RECOVER: Final = 0x4
_EXT_EXTENTS: Final = 0x40
_EXT_64BIT: Final = 0x80
_EXT_CHECKSUM: Final = 0x400
_EXT_ERRORS: Final = 0x2
_BTRFS_START: Final = 64 << 10
_BTRFS_BYTES: Final = 4096
_BTRFS_MIRROR: Final = 64 << 20
_BTRFS_MAGIC: Final = b"_BHRfS_M"
_CRC32C: Final = 0x82F63B78


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, or another content that is recognized."""

    kind: str
    """ext2, ext3, ext4, xfs, btrfs, ntfs, vfat, exfat; or swap, crypt, lvm, raid."""
    needs_replay: bool = False
    """Whether its journal, or a dirty flag, asks for a recovery."""
    problems: tuple[str, ...] = ()
    devices: int = 1
    """Number of devices that it spans."""

    @property
    def is_opaque(self) -> bool:
        """Whether there is nothing to check: no file system, or one that is encrypted."""
        return self.kind in ("swap", "crypt", "lvm", "raid")


def find_file_system(source: Source) -> FileSystem | None:
    """Return the content of a slice, or None if it is unknown.

    Raises:
        CbtfsError: the bytes cannot be read.
    """
    for parse in (_ext, _xfs, _btrfs, _boot_sector, _other):
        found = parse(source)
        if found is not None:
            return found
    for find in (_ext_backup, _btrfs_backup, _boot_sector_backup):
        kind = find(source)
        if kind is not None:
            text = "the primary superblock is damaged; a backup of it is intact"
            return FileSystem(kind, problems=(text,))
    return None


def crc32c(data: bytes, start: int = 0xFFFFFFFF) -> int:
    """Return the CRC-32C register after *data*, without the final inversion."""
    value = start
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def _table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CRC32C if value & 1 else 0)
        yield value


_TABLE: Final = tuple(_table())


def _number(data: bytes, offset: int, form: str) -> int:
    (value,) = struct.unpack_from(form, data, offset)
    return int(value)


def _beyond(size: int, source: Source) -> Iterator[str]:
    if size > source.size:
        yield f"it has {size} bytes, and its slice only {source.size}"


def _checksum(actual: int, stored: int) -> Iterator[str]:
    if actual != stored:
        yield "the checksum of its superblock is wrong"


def _ext(source: Source) -> FileSystem | None:
    data = read_bytes(source, _EXT_START, 1024)
    if len(data) < 1024 or _number(data, 0x38, "<H") != _EXT_MAGIC:
        return None
    compat, incompat, ro_compat = (_number(data, at, "<I") for at in (0x5C, 0x60, 0x64))
    problems: list[str] = []
    shift = _number(data, 0x18, "<I")
    if shift > 6:
        problems.append("its block size is invalid")
    else:
        blocks = _number(data, 0x4, "<I")
        if incompat & _EXT_64BIT:
            blocks += _number(data, 0x150, "<I") << 32
        problems += _beyond(blocks << (10 + shift), source)
    if ro_compat & _EXT_CHECKSUM:
        problems += _checksum(crc32c(data[:0x3FC]), _number(data, 0x3FC, "<I"))
    if _number(data, 0x3A, "<H") & _EXT_ERRORS:
        problems.append("the guest has recorded errors of it")
    has_journal = bool(compat & _EXT_HAS_JOURNAL)
    kind = "ext4" if incompat & _EXT_EXTENTS else "ext3" if has_journal else "ext2"
    return FileSystem(kind, bool(incompat & _EXT_RECOVER), tuple(problems))


def _ext_backup(source: Source) -> str | None:
    """Return a name if block group 1 has a copy of the superblock."""
    for block in (1024, 2048, 4096):
        first = 1 if block == 1024 else 0
        data = read_bytes(source, (first + block * 8) * block, 1024)
        if (
            len(data) == 1024
            and _number(data, 0x38, "<H") == _EXT_MAGIC
            and _number(data, 0x5A, "<H") == 1
        ):
            return "ext4" if _number(data, 0x60, "<I") & _EXT_EXTENTS else "ext2"
    return None


def _xfs(source: Source) -> FileSystem | None:
    data = read_bytes(source, 0, 512)
    if len(data) < 512 or data[:4] != b"XFSB":
        return None
    problems = list(_beyond(_number(data, 4, ">I") * _number(data, 8, ">Q"), source))
    sector = _number(data, 102, ">H")
    if _number(data, 100, ">H") & 0xF == 5 and 512 <= sector <= 32768:
        whole = read_bytes(source, 0, sector)
        plain = whole[:224] + bytes(4) + whole[228:]
        problems += _checksum(crc32c(plain) ^ 0xFFFFFFFF, _number(whole, 224, "<I"))
    if data[126]:
        problems.append("mkfs.xfs or a growth was interrupted")
    return FileSystem("xfs", problems=tuple(problems))


def _btrfs(source: Source, start: int = _BTRFS_START) -> FileSystem | None:
    data = read_bytes(source, start, _BTRFS_BYTES)
    if len(data) < _BTRFS_BYTES or data[0x40:0x48] != _BTRFS_MAGIC:
        return None
    devices = _number(data, 0x88, "<Q")
    problems: list[str] = []
    if devices == 1:
        problems += _beyond(_number(data, 0x70, "<Q"), source)
    if _number(data, 0xC4, "<H") == 0:
        problems += _checksum(crc32c(data[0x20:]) ^ 0xFFFFFFFF, _number(data, 0, "<I"))
    return FileSystem("btrfs", problems=tuple(problems), devices=devices)


def _btrfs_backup(source: Source) -> str | None:
    return None if _btrfs(source, _BTRFS_MIRROR) is None else "btrfs"


def _boot_sector(source: Source, offset: int = 0) -> FileSystem | None:
    """Return the file system of a boot sector as Microsoft's systems write it."""
    data = read_bytes(source, offset, 512)
    if len(data) < 512 or data[510:] != b"\x55\xaa":
        return None
    if data[3:11] == b"NTFS    ":
        size = _number(data, 0x28, "<Q") * _number(data, 0x0B, "<H")
        return FileSystem("ntfs", problems=tuple(_beyond(size, source)))
    if data[3:11] == b"EXFAT   ":
        size = _number(data, 72, "<Q") << min(data[108], 12)
        return FileSystem("exfat", problems=tuple(_beyond(size, source)))
    if data[3:11] == b"-FVE-FS-":
        return FileSystem("crypt")
    flags = {b"FAT12   ": 0x25, b"FAT16   ": 0x25, b"FAT32   ": 0x41}
    for at in (54, 82):
        if (flag := flags.get(data[at : at + 8])) is not None:
            sectors = _number(data, 19, "<H") or _number(data, 32, "<I")
            size = sectors * _number(data, 11, "<H")
            return FileSystem("vfat", bool(data[flag] & 1), tuple(_beyond(size, source)))
    return None


def dirty_flag_of_fat(source: Source) -> int:
    """Return the offset of the byte whose lowest bit says that a FAT was not unmounted."""
    return 0x41 if read_bytes(source, 82, 8) == b"FAT32   " else 0x25


def _boot_sector_backup(source: Source) -> str | None:
    """Return a name if a copy of the boot sector is where NTFS and FAT32 have it."""
    places = {source.size // 512 * 512 - 512: "ntfs", 6 * 512: "vfat", 12 * 512: "exfat"}
    for offset, kind in places.items():
        found = _boot_sector(source, offset)
        if found is not None and found.kind == kind:
            return kind
    return None


def _magic(source: Source, offset: int, *magics: bytes) -> bool:
    return read_bytes(source, offset, len(magics[0])) in magics


_OTHERS: Final[tuple[tuple[str, Callable[[Source], bool]], ...]] = (
    ("swap", lambda source: _magic(source, 4086, b"SWAPSPACE2")),
    ("crypt", lambda source: _magic(source, 0, b"LUKS\xba\xbe")),
    ("lvm", lambda source: any(_magic(source, n * 512, b"LABELONE") for n in range(4))),
    ("raid", lambda source: any(_magic(source, n, b"\xfc\x4e\x2b\xa9") for n in (0, 4096))),
)


def _other(source: Source) -> FileSystem | None:
    return next((FileSystem(kind) for kind, matches in _OTHERS if matches(source)), None)
