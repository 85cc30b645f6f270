"""FAT12, FAT16, FAT32 and exFAT, and whether they were unmounted.

Sources: Microsoft, FAT: General Overview of On-Disk Format, 1.03; exFAT file system specification;
Linux, fs/fat/inode.c (the byte that Linux sets while the file system is mounted).
"""

import struct
from typing import Final

from cbtfs.files.probe.values import Kind, Probe, State
from cbtfs.volumes.source import Source, read_bytes

_MAX_FAT12: Final = 4085
_MAX_FAT16: Final = 65525
_DIRTY: Final = 1
_ENTRY_BYTES: Final = 32
_MAX_ROOT_BYTES: Final = 64 << 10
_LABEL: Final = 0x08
_LONG_NAME: Final = 0x0F
_FREE: Final = 0xE5
_NO_LABEL: Final = "NO NAME"


def probe_exfat(source: Source) -> Probe | None:
    """Probe a boot sector of exFAT, or return None."""
    boot = read_bytes(source, 0, 512)
    if boot[3:11] != b"EXFAT   " or len(boot) < 512:
        return None
    (flags,) = struct.unpack_from("<H", boot, 106)
    state, detail = (State.UNCLEAN, "its dirty flag is set") if flags & 2 else (State.CLEAN, "")
    return Probe(Kind.EXFAT, state, _serial(boot[100:104]), "", frozenset(), detail)


def probe_fat(source: Source) -> Probe | None:
    """Probe a boot sector of FAT and the second entry of its table, or return None."""
    boot = read_bytes(source, 0, 512)
    if len(boot) < 512 or boot[510:512] != b"\x55\xaa":
        return None
    sector, cluster, reserved, tables, entries, small, media = struct.unpack_from(
        "<HBHBHHB", boot, 11
    )
    (table_16,) = struct.unpack_from("<H", boot, 22)
    large, table_32 = struct.unpack_from("<II", boot, 32)
    is_power = sector and not sector & (sector - 1) and cluster and not cluster & (cluster - 1)
    if not is_power or not 512 <= sector <= 4096 or not reserved or not 1 <= tables <= 2:
        return None
    if media != 0xF0 and media < 0xF8:
        return None
    table = table_16 or table_32
    root = -(-entries * _ENTRY_BYTES // sector)
    data = (small or large) - reserved - tables * table - root
    if not table or data < cluster or (table_16 and not entries):
        return None
    clusters = data // cluster
    if not table_16:
        kind, at = Kind.FAT32, 64
    else:
        kind = Kind.FAT12 if clusters < _MAX_FAT12 else Kind.FAT16
        if clusters >= _MAX_FAT16:
            return None
        at = 36
    start = (reserved + tables * table) * sector
    if kind is Kind.FAT32:
        (first,) = struct.unpack_from("<I", boot, 44)
        start += max(first - 2, 0) * cluster * sector
        length = cluster * sector
    else:
        length = entries * _ENTRY_BYTES
    has_serial = boot[at + 2] in (0x28, 0x29)
    uuid = _serial(boot[at + 3 : at + 7]) if has_serial else ""
    label = _root_label(read_bytes(source, start, min(length, _MAX_ROOT_BYTES)))
    if label is None and boot[at + 2] == 0x29:
        label = boot[at + 7 : at + 18].decode("cp437").rstrip()
    if label == _NO_LABEL:
        label = ""
    is_dirty = bool(boot[at + 1] & _DIRTY) or not _has_clean_bit(source, kind, reserved * sector)
    state, detail = (State.UNCLEAN, "it was in use") if is_dirty else (State.CLEAN, "")
    return Probe(kind, state, uuid, label or "", frozenset(), detail)


def _has_clean_bit(source: Source, kind: Kind, table: int) -> bool:
    """Return True unless the second entry of the table says that the file system was in use."""
    if kind is Kind.FAT12:
        return True
    entry = int.from_bytes(
        read_bytes(source, table + (4 if kind is Kind.FAT32 else 2), 4), "little"
    )
    return bool(entry & (1 << 27 if kind is Kind.FAT32 else 1 << 15))


def _root_label(directory: bytes) -> str | None:
    """Return the label in the root directory, or None."""
    for at in range(0, len(directory) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        first, attributes = directory[at], directory[at + 11]
        if first == 0:
            return None
        if first != _FREE and attributes & _LABEL and attributes != _LONG_NAME:
            name = directory[at : at + 11]
            name = b"\xe5" + name[1:] if first == 5 else name
            return name.decode("cp437").rstrip()
    return None


def _serial(data: bytes) -> str:
    text = f"{int.from_bytes(data, 'little'):08X}"
    return f"{text[:4]}-{text[4:]}"
