"""Directories of FAT: short names, and long names in the entries before them.

Source: Microsoft, FAT: General Overview of On-Disk Format, 1.03; Linux, fs/fat/namei_vfat.c (the
letter case of short names).
"""

import codecs
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cbtfs.files.protocol import FileSystemDamaged

ENTRY_BYTES: Final = 32
_FREE: Final = 0xE5
_ESCAPED_FREE: Final = 0x05
_READ_ONLY: Final = 0x01
_LABEL: Final = 0x08
_DIRECTORY: Final = 0x10
_LONG_NAME: Final = 0x0F
_LAST: Final = 0x40
_LOWER_NAME: Final = 0x08
_LOWER_EXTENSION: Final = 0x10
_UNITS: Final = 13
"""UTF-16 units of a long name in one entry."""
_SHORT: Final = codecs.lookup("cp437")
"""The code page that Linux uses. The sandbox allows no import: codecs are loaded before it."""
_LONG: Final = codecs.lookup("utf-16-le")


class FatEntry(NamedTuple):
    """An entry of a directory."""

    name: str
    at: int
    """Offset in the directory."""
    is_directory: bool
    is_read_only: bool
    cluster: int
    size: int
    created_ns: int
    modified_ns: int
    accessed_ns: int


def entries(data: bytes) -> Iterator[FatEntry]:
    """Yield the files in a directory, without its own entry and that of its parent.

    Raises:
        FileSystemDamaged: a name is not possible.
    """
    long_name = _LongName()
    for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
        entry = data[at : at + ENTRY_BYTES]
        if entry[0] == 0:
            return
        if entry[0] == _FREE:
            long_name.clear()
        elif entry[11] & 0x3F == _LONG_NAME:
            long_name.add(entry)
        elif entry[11] & _LABEL or entry[0] == ord("."):
            long_name.clear()
        else:
            name = long_name.of(entry[:11]) or _short_name(entry)
            long_name.clear()
            if not name or "/" in name or "\0" in name or name in (".", ".."):
                raise FileSystemDamaged("a directory is damaged: a name is not possible")
            yield _entry(name, at, entry)


def _entry(name: str, at: int, data: bytes) -> FatEntry:
    tenths, made_time, made_day, used_day, high, time, day, low, size = struct.unpack_from(
        "<BHHHHHHHI", data, 13
    )
    return FatEntry(
        name,
        at,
        bool(data[11] & _DIRECTORY),
        bool(data[11] & _READ_ONLY),
        high << 16 | low,
        size,
        _time(made_day, made_time) + tenths * 10_000_000,
        _time(day, time),
        _time(used_day, 0),
    )


def _time(day: int, time: int) -> int:
    """Return a date and a time as nanoseconds since 1970; 0 if no calendar has them.

    FAT has the time of the guest's clock, whose zone is not known.
    """
    try:
        moment = datetime(
            1980 + (day >> 9),
            day >> 5 & 15,
            day & 31,
            time >> 11,
            time >> 5 & 63,
            (time & 31) * 2,
            tzinfo=UTC,
        )
    except ValueError:
        return 0
    return int(moment.timestamp()) * 1_000_000_000


def _short_name(entry: bytes) -> str:
    name = entry[:8]
    if name[0] == _ESCAPED_FREE:
        name = bytes([_FREE]) + name[1:]
    base = _SHORT.decode(name)[0].rstrip(" ")
    extension = _SHORT.decode(entry[8:11])[0].rstrip(" ")
    if entry[12] & _LOWER_NAME:
        base = base.lower()
    if entry[12] & _LOWER_EXTENSION:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


class _LongName:
    """The parts of a long name, which come last part first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._next = 0
        self._checksum = -1

    def clear(self) -> None:
        """Forget the parts: the next entry has no long name, or another one."""
        self._parts, self._next = [], 0

    def add(self, entry: bytes) -> None:
        number = entry[0] & 0x1F
        if entry[0] & _LAST:
            self._parts, self._checksum = [], entry[13]
        elif number != self._next or entry[13] != self._checksum:
            self.clear()
            return
        self._next = number - 1
        self._parts.insert(0, entry[1:11] + entry[14:26] + entry[28:32])

    def of(self, short: bytes) -> str:
        """Return the long name of the file with a short name; empty if it has none."""
        if not self._parts or self._next != 0 or self._checksum != _checksum(short):
            return ""
        text = _LONG.decode(b"".join(self._parts), "replace")[0]
        return text.partition("\0")[0]


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total
