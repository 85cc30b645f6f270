"""Fuzz target of exported disks: any file, cut at any place, is a disk or is refused."""

import struct
import zlib

from cbtfs.source.transport.httpnfc.vmdk import SECTOR, StreamCorrupt, StreamDecoder, unpack

_GRAIN = 8
"""Sectors of a grain: the smallest ones that the decoder accepts."""
_SIZE = 3 * _GRAIN * SECTOR
_AT_END = (1 << 64) - 1
_TABLE_ENTRIES = 512


def read_streamed(data: bytes) -> None:
    """Decode *data*, whole and in two pieces, with and without a valid header."""
    half = len(data) // 2
    head = _header(_AT_END) + bytes(SECTOR)
    for pieces in ((data,), (data[:half], data[half:]), (head, data)):
        decoder = StreamDecoder(_SIZE)
        try:
            for piece in pieces:
                for grain in decoder.feed(piece):
                    assert 0 <= grain.start < _SIZE
                    assert 0 < len(unpack(grain, decoder.grain_bytes, _SIZE)) <= _SIZE
            decoder.finish()
        except StreamCorrupt:
            pass


def streamed_seeds() -> list[bytes]:
    """Return a valid file with two grains, with and without its header."""
    body, places, sector = b"", [0] * _TABLE_ENTRIES, 2
    for number in (0, 2):
        packed = zlib.compress(b"grain" * 800 + bytes(96))
        places[number] = sector
        piece = _padded(struct.pack("<QI", number * _GRAIN, len(packed)) + packed)
        body += piece
        sector += len(piece) // SECTOR
    table = _marker(4, 1) + struct.pack(f"<{_TABLE_ENTRIES}I", *places)
    directory = _marker(1, 2) + _padded(struct.pack("<I", sector + 1))
    at = sector + len(table) // SECTOR + 1
    body += table + directory + _marker(1, 3) + _header(at) + _marker(0, 0)
    return [_header(_AT_END) + bytes(SECTOR) + body, body]


def _header(directory: int) -> bytes:
    sizes = (_SIZE // SECTOR, _GRAIN, 0, 0, _TABLE_ENTRIES, 0, directory, 2, 0)
    form = "<4sIIQQQQIQQQB4sH"
    return _padded(struct.pack(form, b"KDMV", 3, 3 << 16 | 1, *sizes, b"\n \r\n", 1))


def _marker(sectors: int, kind: int) -> bytes:
    return _padded(struct.pack("<QII", sectors, 0, kind))


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
