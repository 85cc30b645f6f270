"""Writer of streamOptimized VMDKs, the format of a lease's downloads.

The file is written sequentially: a header whose grain directory is "at the end", compressed grains
with markers, grain tables, the grain directory, and a footer with its position. Source: VMware,
"Virtual Disk Format 5.0", sections "Hosted Sparse Extent Header" and "Stream-Optimized Compressed
Sparse Extents".
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal

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
BOMB = 16 << 20

StreamFault = Literal[
    "",
    "deflate",  # the first grain has a wrong checksum
    "bomb",  # the first grain decompresses to 16 MiB
    "order",  # grains come in descending order
    "missing-grain",  # the last grain of a table is left out, but the table names it
    "missing-table",  # there is no table behind the grains
    "directory",  # the directory names other tables
    "no-footer",
    "capacity",  # the header describes one sector more
    "trailing",  # data follows the end marker
]


def write_streamed(
    fd: int, size: int, name: str, target: BinaryIO, fault: StreamFault = ""
) -> None:
    """Write the disk of *size* bytes in *fd* to *target*; holes are left out."""
    _StreamedWriter(fd, size, target, fault).write(name)


class _StreamedWriter:
    def __init__(self, fd: int, size: int, target: BinaryIO, fault: StreamFault) -> None:
        self._fd = fd
        self._size = size
        self._target = target
        self._fault = fault
        self._sectors = 0
        self._is_spoilt = False

    def write(self, name: str) -> None:
        descriptor = _descriptor(name, self._size // SECTOR)
        stated = self._size + SECTOR * (self._fault == "capacity")
        start = _header(stated, AT_END) + descriptor.ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")
        self._put(start.ljust(OVERHEAD_SECTORS * SECTOR, b"\0"))
        count = -(-self._size // GRAIN)
        directory = [0] * -(-count // TABLE_ENTRIES)
        number, table = -1, [0] * TABLE_ENTRIES
        missing = -1
        if self._fault == "missing-grain":
            missing = max((grain for grain, _ in self._grains()), default=-1)
        for grain, data in self._grains():
            if grain // TABLE_ENTRIES != number:
                self._finish_table(directory, number, table)
                number, table = grain // TABLE_ENTRIES, [0] * TABLE_ENTRIES
            table[grain % TABLE_ENTRIES] = self._sectors
            packed = self._packed(data)
            if grain == missing:
                continue
            self._put(struct.pack("<QI", grain * GRAIN_SECTORS, len(packed)) + packed)
        self._finish_table(directory, number, table)
        if self._fault == "directory":
            directory = [entry + 1 for entry in directory]
        entries = struct.pack(f"<{len(directory)}I", *directory)
        sector = self._put_marked(GRAIN_DIRECTORY, entries)
        if self._fault != "no-footer":
            self._put_marked(FOOTER, _header(self._size, sector))
        self._put(_marker(0, END_OF_STREAM))
        if self._fault == "trailing":
            self._put(b"more")

    def _packed(self, data: bytes) -> bytes:
        """Return a compressed grain; a fault in it is in the first one."""
        packed, fault = zlib.compress(data, 1), self._fault
        if fault in ("deflate", "bomb") and not self._is_spoilt:
            self._is_spoilt = True
            return packed[:-4] + bytes(4) if fault == "deflate" else zlib.compress(bytes(BOMB), 1)
        return packed

    def _grains(self) -> Iterator[tuple[int, bytes]]:
        numbers = grains(data_spans(self._fd, self._size), GRAIN)
        if self._fault == "order":
            numbers = iter(list(numbers)[::-1])
        for grain in numbers:
            yield grain, read_padded(self._fd, grain * GRAIN, GRAIN)

    def _finish_table(self, directory: list[int], number: int, table: list[int]) -> None:
        if number >= 0 and self._fault != "missing-table":
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
