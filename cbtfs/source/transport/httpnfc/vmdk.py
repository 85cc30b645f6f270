"""Decode stream-optimized VMDKs, the form in which vSphere exports disks. No I/O.

The file is read in order: a header, compressed grains in ascending order, each with a marker, a
grain table after the grains that it names, the grain directory, a footer, and the end marker.
Tables, directory and footer must agree with the grains: a missing grain would read as zeros.
Source: VMware, "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".
"""

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.errors import SourceUnavailable

SECTOR: Final = 512
TABLE_ENTRIES: Final = 512
"""Entries of a grain table, in every file of this form."""
_TABLE_SECTORS: Final = TABLE_ENTRIES * 4 // SECTOR
_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
_MARKER: Final = struct.Struct("<QI")
_KIND: Final = struct.Struct("<I")
_MAGIC: Final = b"KDMV"
_AT_END: Final = (1 << 64) - 1
"""Position of the grain directory in a header: the footer has it."""
_COMPRESSED, _MARKED = 1 << 16, 1 << 17
_DEFLATE: Final = 1
_GRAIN_SECTORS: Final = tuple(8 << shift for shift in range(9))
"""Possible sizes of a grain: 4 KiB to 1 MiB; vSphere uses 64 KiB."""
_MAX_OVERHEAD: Final = 1 << 14
"""Maximum number of sectors before the first grain: 8 MiB; vSphere uses 128 sectors."""
_MAX_PADDING: Final = 1 << 20
"""Maximum number of zero bytes after the end marker."""
_SECTOR_MASK: Final = (1 << 32) - 1
"""Tables hold 32 bits of a sector number."""
_END, _TABLE, _DIRECTORY, _FOOTER = range(4)


class StreamCorrupt(SourceUnavailable):
    """Raised when the bytes are not a complete stream-optimized VMDK of the expected size."""


class Grain(NamedTuple):
    """One compressed grain."""

    start: int
    """Offset in the disk, in bytes."""
    packed: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    capacity: int
    """Sectors."""
    grain: int
    """Sectors."""
    overhead: int
    """Sectors before the first marker."""
    directory: int
    """First sector of the grain directory."""


class StreamDecoder:
    """Decodes one file from pieces of any length. Memory is bounded by the pieces and one grain."""

    def __init__(self, size: int) -> None:
        """*size* is the expected size of the disk in bytes."""
        self._size = size
        self._data = bytearray()
        self._steps = self._decode()
        self._needed = next(self._steps)
        self._grains: list[Grain] = []
        self._sector = 0
        self._pending: dict[int, int] = {}
        """Sector of each grain, by its number, for which no table came yet."""
        self._next_grain = 0
        self._tables = array("Q")
        """Sector of the table, by its number; 0: no table."""
        self._empty_tables: set[int] = set()
        self._directory_sector = 0
        self._padding = 0
        self.grain_bytes = 0
        """Size of a grain in bytes; 0 before the header was decoded."""
        self.is_complete = False
        """The end marker was decoded, and everything agrees."""

    def feed(self, data: bytes) -> list[Grain]:
        """Return the grains that *data* completes, in ascending order.

        Raises:
            StreamCorrupt: the bytes are not such a file. The decoder must not be used again.
        """
        self._data += data
        self._grains = []
        while not self.is_complete and len(self._data) >= self._needed:
            self._needed = next(self._steps)
        if self.is_complete and self._data:
            self._padding += len(self._data)
            if self._padding > _MAX_PADDING or any(self._data):
                raise StreamCorrupt("the exported file has data behind its end marker")
            self._data.clear()
        return self._grains

    def finish(self) -> None:
        """Raise StreamCorrupt unless the file is complete. Call at the end of the bytes."""
        if not self.is_complete:
            raise StreamCorrupt("the exported file ends too early")

    def _take(self, sectors: int) -> bytes:
        """Remove and return *sectors* sectors, which have arrived."""
        data = bytes(self._data[: sectors * SECTOR])
        del self._data[: sectors * SECTOR]
        self._sector += sectors
        return data

    def _decode(self) -> Iterator[int]:
        """Decode the file; yield the number of bytes that the next step needs."""
        yield SECTOR
        header = self._header(self._take(1))
        if header.directory != _AT_END:
            raise StreamCorrupt("the exported file is not stream-optimized: its directory is first")
        self.grain_bytes = header.grain * SECTOR
        yield (header.overhead - 1) * SECTOR
        self._take(header.overhead - 1)
        has_footer = False
        while True:
            yield SECTOR
            value, length = _MARKER.unpack_from(self._data)
            if length:
                if has_footer or self._directory_sector:
                    raise StreamCorrupt("the exported file has a grain behind its directory")
                sectors = -(-(_MARKER.size + length) // SECTOR)
                if length > 2 * self.grain_bytes:
                    raise StreamCorrupt(f"a grain of the exported file has {length} bytes")
                yield sectors * SECTOR
                self._add_grain(header, value, length, sectors)
                continue
            (kind,) = _KIND.unpack_from(self._data, _MARKER.size)
            if kind == _END:
                break
            self._check_length(header, kind, value)
            yield (1 + value) * SECTOR
            self._take(1)
            sector, content = self._sector, self._take(value)
            if has_footer:
                raise StreamCorrupt("the exported file has more than its end behind the footer")
            if kind == _TABLE:
                self._add_table(header, sector, content)
            elif kind == _DIRECTORY:
                self._check_directory(header, sector, content)
            else:
                self._check_footer(header, content)
                has_footer = True
        if not has_footer:
            raise StreamCorrupt("the exported file ends without a footer")
        self._take(1)
        self.is_complete = True
        yield 0

    def _header(self, sector: bytes) -> _Header:
        fields = _HEADER.unpack_from(sector)
        magic, version, flags, capacity, grain, at, length, entries = fields[:8]
        directory, overhead, _, newlines, method = fields[9:]
        if magic != _MAGIC or version not in (1, 2, 3) or newlines != b"\n \r\n":
            raise StreamCorrupt("the exported file is not a VMDK")
        if not flags & _COMPRESSED or not flags & _MARKED or method != _DEFLATE:
            raise StreamCorrupt("the exported file is not stream-optimized")
        if grain not in _GRAIN_SECTORS or entries != TABLE_ENTRIES:
            raise StreamCorrupt(f"the exported file has grains of {grain} sectors")
        if capacity * SECTOR != self._size:
            raise StreamCorrupt(
                f"the exported file describes {capacity * SECTOR} bytes, but the disk has "
                f"{self._size}"
            )
        if not 1 <= overhead <= _MAX_OVERHEAD or at + length > overhead:
            raise StreamCorrupt(f"the exported file has {overhead} sectors before its grains")
        return _Header(capacity, grain, overhead, directory)

    def _add_grain(self, header: _Header, value: int, length: int, sectors: int) -> None:
        number, rest = divmod(value, header.grain)
        if rest or value >= header.capacity or number < self._next_grain:
            raise StreamCorrupt(f"the exported file has a grain at sector {value}, out of order")
        if self._pending and number // TABLE_ENTRIES != len(self._tables):
            raise StreamCorrupt(f"the exported file lacks the table before sector {value}")
        while len(self._tables) < number // TABLE_ENTRIES:
            self._tables.append(0)
        if len(self._tables) != number // TABLE_ENTRIES:
            raise StreamCorrupt(f"the exported file has sector {value} behind its table")
        self._pending[number] = self._sector & _SECTOR_MASK
        self._next_grain = number + 1
        packed = self._take(sectors)[_MARKER.size : _MARKER.size + length]
        self._grains.append(Grain(value * SECTOR, packed))

    def _check_length(self, header: _Header, kind: int, sectors: int) -> None:
        expected = {_TABLE: _TABLE_SECTORS, _FOOTER: 1}
        expected[_DIRECTORY] = -(-self._table_count(header) * 4 // SECTOR)
        if sectors != expected.get(kind):
            raise StreamCorrupt(f"the exported file has a marker {kind} of {sectors} sectors")

    @staticmethod
    def _table_count(header: _Header) -> int:
        return -(-header.capacity // (header.grain * TABLE_ENTRIES))

    def _add_table(self, header: _Header, sector: int, content: bytes) -> None:
        entries = _entries(content)
        first = len(self._tables) * TABLE_ENTRIES
        # Entry 1 is a grain of zeros that the file does not contain.
        named = {first + i: entry for i, entry in enumerate(entries) if entry > 1}
        if named != self._pending:
            raise StreamCorrupt(f"the exported file lacks grains of the table at sector {sector}")
        if not named:
            if len(self._empty_tables) >= self._table_count(header):
                raise StreamCorrupt("the exported file has too many tables")
            self._empty_tables.add(sector & _SECTOR_MASK)
            return
        self._tables.append(sector & _SECTOR_MASK)
        self._pending = {}

    def _check_directory(self, header: _Header, sector: int, content: bytes) -> None:
        count = self._table_count(header)
        if self._pending or self._directory_sector:
            raise StreamCorrupt("the exported file has its directory in the wrong place")
        entries = _entries(content)
        known = self._tables.tolist() + [0] * (count - len(self._tables))
        for entry, table in zip(entries[:count], known, strict=True):
            is_empty = not table and (not entry or entry in self._empty_tables)
            if entry != table and not is_empty:
                raise StreamCorrupt("the directory of the exported file names other tables")
        self._directory_sector = sector

    def _check_footer(self, header: _Header, content: bytes) -> None:
        footer = self._header(content)
        if not self._directory_sector or footer.directory != self._directory_sector:
            raise StreamCorrupt("the footer of the exported file names another directory")
        if footer.grain != header.grain:
            raise StreamCorrupt("the footer of the exported file contradicts its header")


def _entries(content: bytes) -> list[int]:
    return [entry for (entry,) in struct.iter_unpack("<I", content)]


def unpack(grain: Grain, grain_bytes: int, size: int) -> bytes:
    """Return the content of a grain of a disk of *size* bytes, up to the end of the disk.

    Raises:
        StreamCorrupt: it does not decompress to a grain. At most a grain is decompressed.
    """
    within = min(grain_bytes, size - grain.start)
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(grain.packed, grain_bytes + 1)
    except zlib.error as exc:
        raise StreamCorrupt(f"the exported file is damaged at {grain.start}: {exc}") from exc
    if not inflate.eof or inflate.unused_data or len(data) not in (grain_bytes, within):
        raise StreamCorrupt(
            f"the exported file is damaged at {grain.start}: a grain has {len(data)} bytes"
        )
    return data[:within]
