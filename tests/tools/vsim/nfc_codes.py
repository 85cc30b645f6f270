"""Decoders of NFC fragments, for the tests of the simulator."""

import struct
import zlib


class NfcError(Exception):
    """The server refuses, or breaks a rule of the protocol."""


def decoded(code: int, extra: bytes, length: int) -> bytes:
    """Return the bytes of a fragment; raises NfcError."""
    try:
        data = {0: bytes, 1: _zlib, 2: _fastlz, 3: lambda raw, size: _skipz(raw, size)}[code]
        result = extra if code == 0 else data(extra, length)  # type: ignore[operator]
    except (struct.error, zlib.error, IndexError, KeyError) as error:
        raise NfcError(f"cannot decode: {error!r}") from error
    if len(result) != length:
        raise NfcError(f"{len(result)} bytes in place of {length}")
    return bytes(result)


def _zlib(extra: bytes, length: int) -> bytes:
    unpacker = zlib.decompressobj()
    result = unpacker.decompress(extra, length + 1)
    if not unpacker.eof or unpacker.unused_data:
        raise NfcError("no end of the stream")
    return result


def _skipz(extra: bytes, length: int) -> bytes:
    stated, zero = struct.unpack_from("<II", extra)
    if (stated, zero) != (length, 0):
        raise NfcError("another length")
    result, position, last = bytearray(length), 8, 0
    while position < len(extra):
        start, size = struct.unpack_from("<II", extra, position)
        piece = extra[position + 8 : position + 8 + size]
        if start < last or start + size > length or len(piece) != size:
            raise NfcError("invalid run")
        result[start : start + size] = piece
        position, last = position + 8 + size, start + size
    return bytes(result)


def _fastlz(extra: bytes, length: int) -> bytes:
    level, position = (extra[0] >> 5) + 1, 1
    control, result = extra[0] & 31, bytearray()
    while True:
        if control < 32:
            result += extra[position : position + control + 1]
            position += control + 1
        else:
            size, back = (control >> 5) - 1, (control & 31) << 8
            if size == 6:
                more = 255
                while more == 255:
                    more = extra[position]
                    size += more
                    position += 1
                    if level == 1:
                        break
            near = extra[position]
            position += 1
            back += near
            if level == 2 and back == 8191:
                back += int.from_bytes(extra[position : position + 2], "big")
                position += 2
            start = len(result) - back - 1
            if start < 0:
                raise NfcError("before the start")
            for at in range(start, start + size + 3):
                result.append(result[at])
        if position >= len(extra) or len(result) > length:
            return bytes(result)
        control = extra[position]
        position += 1
