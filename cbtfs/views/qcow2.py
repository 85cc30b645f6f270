"""A qcow2 image whose data is in a raw file, made up when it is read.

Source: QEMU, docs/interop/qcow2.txt. Clusters have 64 KiB. The order of the clusters is fixed:
header, refcount table, refcount blocks, L1 table, bitmap directory, bitmap table, bitmap data, L2
tables. So the position of a table follows from its number, and nothing is stored.
"""

import struct
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.extent import Extent

CLUSTER_BITS: Final = 16
CLUSTER: Final = 1 << CLUSTER_BITS
_SECTOR: Final = 512
_VERSION: Final = 3
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTERNAL_DATA: Final = 1 << 2
"""Incompatible feature: the data is in another file."""
_HAS_BITMAPS: Final = 1 << 0
"""Autoclear feature: the bitmaps match the data."""
_IS_RAW: Final = 1 << 1
"""Autoclear feature: the data file is a raw image."""
_DATA_FILE: Final = 0x44415441
_BITMAPS: Final = 0x23852875
_COPIED: Final = 1 << 63
_ZERO: Final = 1
"""L2 entry of a cluster that reads as zeros."""
_REFCOUNTS: Final = CLUSTER // 2
_ENTRIES: Final = CLUSTER // 8
_L2_BYTES: Final = _ENTRIES * CLUSTER
"""Bytes of a disk that one L2 table maps."""
_BITS: Final = CLUSTER * 8
_DIRTY_TRACKING: Final = 1
_MAX_BITMAP_BYTES: Final = 512 << 20
"""QEMU's limit."""
_CACHED_BYTES: Final = 8 * CLUSTER

ExtentsIn = Callable[[Extent], Iterable[Extent]]
"""Returns extents that intersect a range of the disk, ascending."""


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A persistent dirty bitmap."""

    name: str
    granularity: int
    """Bytes that one bit stands for: a power of two."""
    dirty: ExtentsIn


def bitmap_granularity(size: int, block_size: int) -> int:
    """Return *block_size*, or the next multiple that suits QEMU's limit for *size* bytes."""
    while size > _MAX_BITMAP_BYTES * 8 * block_size:
        block_size *= 2
    return block_size


def _divided(number: int, by: int) -> int:
    return -(-number // by)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Number of the first cluster of each part of the file."""

    refcount_table: int
    refcount_blocks: int
    l1: int
    directory: int
    bitmap_table: int
    bitmap_data: int
    l2: int
    end: int

    @property
    def tables(self) -> int:
        """Number of L2 tables."""
        return self.end - self.l2


def _layout(disk_bytes: int, granularity: int | None) -> _Layout:
    tables = _divided(disk_bytes, _L2_BYTES)
    l1 = max(_divided(tables, _ENTRIES), 1)
    bits = 0 if granularity is None else _divided(disk_bytes, granularity)
    bitmap = _divided(bits, _BITS)
    parts = [l1, 1 if bitmap else 0, _divided(bitmap, _ENTRIES), bitmap, tables]
    blocks = refcount_tables = 1
    while 1 + refcount_tables + blocks + sum(parts) > blocks * _REFCOUNTS:
        blocks += 1
        refcount_tables = _divided(blocks, _ENTRIES)
    return _Layout(*accumulate([1, refcount_tables, blocks, *parts]))


class Qcow2Image:
    """The metadata of an image as a file. Safe to use from several threads."""

    def __init__(
        self, disk_bytes: int, data_file: bytes, data: ExtentsIn, bitmap: Bitmap | None = None
    ) -> None:
        """*data_file*: absolute path of the raw file. *data*: the extents that are not zeros.

        Raises:
            ValueError: the path is too long.
        """
        if len(data_file) > CLUSTER // 2:
            raise ValueError("the path of the data file is too long")
        self._disk_bytes = disk_bytes
        self._data_file = data_file
        self._data = data
        self._bitmap = bitmap if disk_bytes else None  # QEMU has no bitmap of an empty disk
        self._at = _layout(disk_bytes, None if self._bitmap is None else self._bitmap.granularity)
        self._makers = (
            (self._at.l2, self._make_l2),
            (self._at.bitmap_data, self._make_bitmap),
            (self._at.bitmap_table, self._make_bitmap_table),
            (self._at.directory, self._make_directory),
            (self._at.l1, self._make_l1),
            (self._at.refcount_blocks, self._make_refcounts),
            (self._at.refcount_table, self._make_refcount_table),
            (0, self._make_header),
        )
        self._clusters: Cache[int, bytes] = Cache(_CACHED_BYTES, len)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._at.end * CLUSTER

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length) of the file, fewer only at its end.

        Raises what the callables for data and dirty extents raise.
        """
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            number, within = divmod(offset, CLUSTER)
            part = self._cluster(number)[within : within + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _cluster(self, number: int) -> bytes:
        def make() -> bytes:
            first, maker = next(pair for pair in self._makers if number >= pair[0])
            return maker(number - first).ljust(CLUSTER, b"\0")

        return self._clusters.load(number, make)

    def _make_header(self, _: int) -> bytes:
        size = _divided(self._disk_bytes, _SECTOR) * _SECTOR
        autoclear = _IS_RAW | (_HAS_BITMAPS if self._bitmap is not None else 0)
        header = _HEADER.pack(
            *(b"QFI\xfb", _VERSION, 0, 0, CLUSTER_BITS, size, 0),
            *(max(self._at.tables, 1), self._at.l1 * CLUSTER, self._at.refcount_table * CLUSTER),
            *(self._at.refcount_blocks - self._at.refcount_table, 0, 0),
            *(_EXTERNAL_DATA, 0, autoclear, 4, _HEADER.size),
        )
        header += _extension(_DATA_FILE, self._data_file)
        if self._bitmap is not None:
            length = len(self._directory_entry(self._bitmap))
            place = struct.pack(">IIQQ", 1, 0, length, self._at.directory * CLUSTER)
            header += _extension(_BITMAPS, place)
        return header + bytes(8)

    def _make_refcount_table(self, index: int) -> bytes:
        first = self._at.refcount_blocks + index * _ENTRIES
        return _numbers(n * CLUSTER for n in range(first, min(first + _ENTRIES, self._at.l1)))

    def _make_refcounts(self, index: int) -> bytes:
        return b"\0\1" * min(self._at.end - index * _REFCOUNTS, _REFCOUNTS)

    def _make_l1(self, index: int) -> bytes:
        first = self._at.l2 + index * _ENTRIES
        return _numbers(
            n * CLUSTER | _COPIED for n in range(first, min(first + _ENTRIES, self._at.end))
        )

    def _make_directory(self, _: int) -> bytes:
        assert self._bitmap is not None
        return self._directory_entry(self._bitmap)

    def _directory_entry(self, bitmap: Bitmap) -> bytes:
        """Return the entry of the bitmap, which is disabled: it never changes."""
        name = bitmap.name.encode("utf-8", "surrogateescape")
        entry = struct.pack(
            ">QIIBBHI",
            *(self._at.bitmap_table * CLUSTER, self._at.l2 - self._at.bitmap_data, 0),
            *(_DIRTY_TRACKING, bitmap.granularity.bit_length() - 1, len(name), 0),
        )
        return _padded(entry + name)

    def _make_bitmap_table(self, index: int) -> bytes:
        first = self._at.bitmap_data + index * _ENTRIES
        return _numbers(n * CLUSTER for n in range(first, min(first + _ENTRIES, self._at.l2)))

    def _make_bitmap(self, index: int) -> bytes:
        """Return the bits of one cluster; the first bit is the lowest of the first byte."""
        assert self._bitmap is not None
        unit = self._bitmap.granularity
        start = index * _BITS * unit
        bits = bytearray(CLUSTER)
        for first, end in _units(self._bitmap.dirty, self._within(start, _BITS * unit), unit):
            _set_bits(bits, first, end)
        return bytes(bits)

    def _make_l2(self, index: int) -> bytes:
        start = index * _L2_BYTES
        area = self._within(start, _L2_BYTES)
        table = array("Q", [_ZERO]) * _divided(area.length, CLUSTER)
        for first, end in _units(self._data, area, CLUSTER):
            offsets = range(
                start + first * CLUSTER | _COPIED, start + end * CLUSTER | _COPIED, CLUSTER
            )
            table[first:end] = array("Q", offsets)
        table.byteswap()
        return table.tobytes()

    def _within(self, start: int, length: int) -> Extent:
        return Extent(start, min(length, self._disk_bytes - start))


def _units(extents_in: ExtentsIn, area: Extent, unit: int) -> Iterable[tuple[int, int]]:
    """Yield (first, end) of the units of *area*, counted from its start, that have an extent."""
    for extent in extents_in(area):
        start, end = max(extent.start, area.start), min(extent.end, area.end)
        if start < end:
            yield (start - area.start) // unit, _divided(end - area.start, unit)


def _set_bits(bits: bytearray, first: int, end: int) -> None:
    low, high = _divided(first, 8), end // 8
    if low < high:
        bits[low:high] = b"\xff" * (high - low)
        edges = (range(first, low * 8), range(high * 8, end))
    else:
        edges = (range(first, end), range(0))
    for edge in edges:
        for bit in edge:
            bits[bit // 8] |= 1 << bit % 8


def _numbers(numbers: Iterable[int]) -> bytes:
    table = array("Q", numbers)
    table.byteswap()
    return table.tobytes()


def _padded(data: bytes) -> bytes:
    return data.ljust(_divided(len(data), 8) * 8, b"\0")


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + _padded(data)
