"""Writer of streamOptimized VMDKs, the format of a lease's downloads.

The file is written sequentially: a header whose grain directory is "at the end", compressed grains
with markers, grain tables, the grain directory, and a footer with its position. Source: VMware,
"Virtual Disk Format 5.0", sections "Hosted Sparse Extent Header" and "Stream-Optimized Compressed
Sparse Extents".
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from tools.vsim.model.image import data_spans, read_padded
from tools.vsim.model.span import grains

SECTOR = 512
GRAIN_SECTORS = 128
GRAIN = GRAIN_SECTORS * SECTOR
TABLE_ENTRIES = 512
DESCRIPTOR_SECTORS = 20
OVERHEAD_SECTORS = 128
AT_END = (1 << 64) - 1
FLAGS = 1 | 1 << 16 | 1 << 17  # newline test is valid; grains are compressed; markers are present
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)


def write_streamed(fd: int, size: int, name: str, target: BinaryIO) -> None:
    """Write the disk of *size* bytes in *fd* to *target*; holes are left out."""
    _StreamedWriter(fd, size, target).write(name)


class _StreamedWriter:
    def __init__(self, fd: int, size: int, target: BinaryIO) -> None:
        self._fd = fd
        self._size = size
        self._target = target
        self._sectors = 0

    def write(self, name: str) -> None:
        descriptor = _descriptor(name, self._size // SECTOR)
        start = _header(self._size, AT_END) + descriptor.ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")
        self._put(start.ljust(OVERHEAD_SECTORS * SECTOR, b"\0"))
        count = -(-self._size // GRAIN)
        directory = [0] * -(-count // TABLE_ENTRIES)
        number, table = -1, [0] * TABLE_ENTRIES
        for grain, data in self._grains():
            if grain // TABLE_ENTRIES != number:
                self._finish_table(directory, number, table)
                number, table = grain // TABLE_ENTRIES, [0] * TABLE_ENTRIES
            table[grain % TABLE_ENTRIES] = self._sectors
            packed = zlib.compress(data, 1)
            self._put(struct.pack("<QI", grain * GRAIN_SECTORS, len(packed)) + packed)
        self._finish_table(directory, number, table)
        entries = struct.pack(f"<{len(directory)}I", *directory)
        sector = self._put_marked(GRAIN_DIRECTORY, entries)
        self._put_marked(FOOTER, _header(self._size, sector))
        self._put(_marker(0, END_OF_STREAM))

    def _grains(self) -> Iterator[tuple[int, bytes]]:
        for grain in grains(data_spans(self._fd, self._size), GRAIN):
            yield grain, read_padded(self._fd, grain * GRAIN, GRAIN)

    def _finish_table(self, directory: list[int], number: int, table: list[int]) -> None:
        if number >= 0:
            entries = struct.pack(f"<{TABLE_ENTRIES}I", *table)
            directory[number] = self._put_marked(GRAIN_TABLE, entries)

    def _put_marked(self, kind: int, data: bytes) -> int:
        """Write a marker and *data*; return the sector of *data*."""
        self._put(_marker(-(-len(data) // SECTOR), kind))
        sector = self._sectors
        self._put(data)
        return sector

    def _put(self, data: bytes) -> None:
        sectors = -(-len(data) // SECTOR)
        self._target.write(data.ljust(sectors * SECTOR, b"\0"))
        self._sectors += sectors


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")


def _header(size: int, directory: int) -> bytes:
    fields = struct.pack(
        "<4sIIQQQQIQQQB4sH",
        b"KDMV",
        3,
        FLAGS,
        size // SECTOR,
        GRAIN_SECTORS,
        1,
        DESCRIPTOR_SECTORS,
        TABLE_ENTRIES,
        0,
        directory,
        OVERHEAD_SECTORS,
        0,
        b"\n \r\n",
        1,
    )
    return fields.ljust(SECTOR, b"\0")


def _descriptor(name: str, sectors: int) -> bytes:
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        "CID=fffffffe",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        "# Extent description",
        f'RW {sectors} SPARSE "{name}"',
        "# The Disk Data Base",
        "#DDB",
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{sectors // (255 * 63)}"',
        'ddb.geometry.heads = "255"',
        'ddb.geometry.sectors = "63"',
    )
    return ("\n".join(lines) + "\n").encode()
