"""Decode the fragments of a read into its buffer; every byte is written exactly once."""

import bisect
import struct
import zlib
from typing import Final, NamedTuple

from cbtfs.source.transport.nfc.wire import Compression, NfcProtocolError

_PAIR: Final = struct.Struct("<II")


class Fragment(NamedTuple):
    """A part of a read, as its record describes it."""

    code: int
    """How it is compressed."""
    start: int
    """Relative to the read."""
    length: int
    packed: int
    """Number of bytes on the wire."""


class Assembly:
    """The buffer of one read, and the ranges of it that are filled."""

    def __init__(self, offset: int, length: int, asked: Compression, into: memoryview) -> None:
        if len(into) != length:
            raise ValueError("the buffer has another length than the read")
        self.offset = offset
        self.length = length
        self._asked = asked
        self._into = into
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._filled = 0

    @property
    def is_complete(self) -> bool:
        return self._filled == self.length

    def check(self, fragment: Fragment) -> None:
        """Raise NfcProtocolError unless *fragment* may come next; its data is not needed yet."""
        code, start, length, packed = fragment
        if code not in (Compression.NONE, self._asked):
            raise NfcProtocolError(f"a fragment has compression {code}, which nobody asked for")
        if length == 0 or start + length > self.length:
            raise NfcProtocolError(
                f"a fragment of {length} bytes at {start} is not within its read of {self.length}"
            )
        at = bisect.bisect_right(self._starts, start)
        if (at and self._ends[at - 1] > start) or (
            at < len(self._starts) and self._starts[at] < start + length
        ):
            raise NfcProtocolError(f"the fragment at {start} overlaps another one")
        if code == Compression.NONE and packed != length:
            raise NfcProtocolError(f"a fragment of {length} bytes comes with {packed} bytes")
        if packed > length + length // 20 + 64:
            raise NfcProtocolError(
                f"a fragment of {length} bytes comes with {packed} compressed bytes"
            )

    def memory(self, fragment: Fragment) -> memoryview | None:
        """Return where the bytes of *fragment* belong; None if they must be decoded first."""
        code, start, length, _ = fragment
        return self._into[start : start + length] if code == Compression.NONE else None

    def fill(self, fragment: Fragment, packed: memoryview) -> None:
        """Decode a fragment that check() accepted; plain data is in place already."""
        code, start, length, _ = fragment
        if code == Compression.ZLIB:
            inflate(packed, self._into[start : start + length])
        elif code == Compression.SKIPZ:
            unskip(packed, self._into[start : start + length])
        at = bisect.bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, start + length)
        self._filled += length


def inflate(packed: memoryview, into: memoryview) -> None:
    """Decompress a zlib stream of exactly len(into) bytes; a longer one is not expanded."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, len(into) + 1)
    except zlib.error as exc:
        raise NfcProtocolError(f"cannot decompress a fragment: {exc}") from exc
    if len(data) != len(into) or not stream.eof or stream.unused_data:
        raise NfcProtocolError(f"a fragment of {len(into)} bytes has another length inside")
    into[:] = data


def unskip(packed: memoryview, into: memoryview) -> None:
    """Decode SkipZ: the length, then runs of data, ascending; all other bytes are zeros."""
    if len(packed) < _PAIR.size or _PAIR.unpack_from(packed) != (len(into), 0):
        raise NfcProtocolError("the header of a fragment has another length")
    at, end = _PAIR.size, 0
    while at < len(packed):
        if at + _PAIR.size > len(packed):
            raise NfcProtocolError("a fragment has trailing bytes")
        start, length = _PAIR.unpack_from(packed, at)
        at += _PAIR.size
        if not length or start < end or start + length > len(into) or at + length > len(packed):
            raise NfcProtocolError(f"invalid run of {length} bytes at {start} in a fragment")
        into[end:start] = bytes(start - end)
        into[start : start + length] = packed[at : at + length]
        at, end = at + length, start + length
    into[end:] = bytes(len(into) - end)
