"""Compression of fragments: plain, zlib, FastLZ, SkipZ."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from tools.vsim.nfc.fastlz import SHORTEST, compress
from tools.vsim.nfc.wire import FASTLZ, NAMES, PLAIN, SKIPZ, ZLIB

GRAIN: Final = 4096
"""Bytes of the zero runs that SkipZ drops; runs of data need no alignment."""
LEVEL2: Final = 65536
_ZEROS: Final = bytes(GRAIN)
_HEAD: Final = struct.Struct("<II")


def encoded(data: memoryview, code: int, offered: Sequence[str]) -> tuple[int, bytes | memoryview]:
    """Return the compression used and the extra; plain if the other one is not smaller."""
    if code == PLAIN or NAMES.get(code) not in offered:
        return PLAIN, data
    if code == ZLIB:
        packed = zlib.compress(data, 1)
    elif code == FASTLZ and len(data) >= SHORTEST:
        packed = compress(bytes(data), 2 if len(data) >= LEVEL2 else 1)
    elif code == SKIPZ:
        ranges = runs(data)
        if ranges == [(0, len(data))]:  # a header and all bytes are no gain
            return PLAIN, data
        packed = skipz(len(data), ranges, data)
    else:
        return PLAIN, data
    return (code, packed) if len(packed) < len(data) else (PLAIN, data)


def runs(data: memoryview) -> list[tuple[int, int]]:
    """Return start and end of the ranges that are not zero, ascending."""
    found: list[tuple[int, int]] = []
    if 0 not in bytes(data[::GRAIN]):  # no part starts with a zero
        return [(0, len(data))]
    for start in range(0, len(data), GRAIN):
        end = min(start + GRAIN, len(data))
        if data[start:end] == _ZEROS[: end - start]:
            continue
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def skipz(length: int, ranges: list[tuple[int, int]], data: memoryview) -> bytes:
    """Return the SkipZ extra of a fragment with these ranges of data."""
    pieces: list[bytes | memoryview] = [_HEAD.pack(length, 0)]
    for start, end in ranges:
        pieces += (_HEAD.pack(start, end - start), data[start:end])
    return b"".join(pieces)
