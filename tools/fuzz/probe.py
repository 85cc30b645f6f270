"""Fuzz target for the probe of volumes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cbtfs.files.probe.find import probe
from tools.fuzz.jbd2 import head


@dataclass(slots=True)
class _Volume:
    """A volume of zeros with *parts*, which counts the bytes read."""

    parts: dict[int, bytes]
    size: int
    total: int = 0

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < self.size
        length = min(length, self.size - offset)
        self.total += length
        assert self.total < 1 << 20
        result = bytearray(length)
        for start, data in self.parts.items():
            first, end = max(start, offset), min(start + len(data), offset + length)
            if first < end:
                result[first - offset : end - offset] = data[first - start : end - start]
        return bytes(result)


def find(data: bytes) -> None:
    """Probe volumes that have *data* at their start, behind a signature, or at their end."""
    for parts, size in _volumes(data):
        found = probe(_Volume(parts, size))
        assert len(found.label) < 40000
        assert len(found.features) < 200


def _volumes(data: bytes) -> Iterator[tuple[dict[int, bytes], int]]:
    yield {0: data}, len(data)
    size = 1 << 40
    yield {0: data}, size
    yield {1024: head()[1024:1080] + data}, size
    yield {0: _an_xfs(), 1 << 20: data}, size
    yield {0: _an_ntfs(), 1 << 20: data}, size
    yield {0: b"\xeb\x3c\x90" + data[:507].ljust(507, b"\0") + b"\x55\xaa" + data[507:]}, size
    yield {64 << 10: bytes(64) + b"_BHRfS_M" + data}, size
    yield {size - (64 << 10): data}, size


def _an_xfs() -> bytes:
    """Return a superblock whose log of 4 MiB begins at 1 MiB."""
    block = bytearray(512)
    struct.pack_into(">4sI", block, 0, b"XFSB", 4096)
    struct.pack_into(">Q", block, 48, 256)
    struct.pack_into(">IIII", block, 84, 1 << 20, 1, 0, 1024)
    struct.pack_into(">H", block, 100, 5)
    block[124] = 20
    return bytes(block)


def _an_ntfs() -> bytes:
    """Return a boot sector whose master file table begins at 1 MiB."""
    block = bytearray(512)
    struct.pack_into("<3x8sHB", block, 0, b"NTFS    ", 512, 8)
    struct.pack_into("<QQb", block, 48, 256, 8, -10)
    return bytes(block)


def seeds() -> list[bytes]:
    """Return records of NTFS, and the end of a log of XFS."""
    return [_records(), _a_log()]


def _records() -> bytes:
    """Return the first four records of a master file table, of which the last has a label."""
    record = bytearray(1024)
    struct.pack_into("<4sHH", record, 0, b"FILE", 48, 3)
    struct.pack_into("<H", record, 20, 56)
    struct.pack_into("<IIBxxxxxxxIH", record, 56, 0x60, 32, 0, 4, 24)
    struct.pack_into("<IIBxxxxxxxIH", record, 88, 0x70, 40, 0, 12, 24)
    struct.pack_into("<IIB", record, 128, 0x80, 80, 1)
    struct.pack_into("<H", record, 128 + 32, 64)
    record[192:200] = b"\x11\x10\x20\0\0\0\0\0"
    struct.pack_into("<I", record, 208, 0xFFFFFFFF)
    return bytes(4096 - 2048) + bytes(record) * 2


def _a_log() -> bytes:
    """Return a log that ends with an unmount record."""
    header = bytearray(512)
    struct.pack_into(">IIII", header, 0, 0xFEEDBABE, 1, 2, 512)
    struct.pack_into(">I", header, 40, 1)
    struct.pack_into(">I", header, 320, 32768)
    return bytes(header) + struct.pack(">IIBB", 1, 8, 0xAA, 0x20).ljust(512, b"\0")
