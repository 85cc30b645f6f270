"""Layouts of NFC messages and records. All numbers are little-endian; docs/vsim.md lists them."""

import struct
from dataclasses import dataclass
from typing import Final

CLASSIC: Final = 264
"""Bytes of a message of the handshake."""
SESSION_COMPLETE, CLASSIC_ERROR, END_OF_TAG, STATUS = 4, 20, 33, 36
CLIENT_RANDOM, VERSION, AIO, CONNECTION, FEATURES = 43, 51, 52, 54, 55

MAGIC: Final = 0xA100DA7A
ERROR, OPEN_SESSION, CLOSE_SESSION, OPEN_FILE, CLOSE_FILE, IO = 1, 2, 3, 4, 5, 7
SOCK_OPTS, DDB_GET, ALLOCATED, RES_POOL = 9, 11, 13, 22
SIZES: Final = {
    OPEN_SESSION: (16,),
    SOCK_OPTS: (12,),
    RES_POOL: (4,),
    OPEN_FILE: (60,),
    IO: (44,),
    ALLOCATED: (48,),
    DDB_GET: (16,),
    CLOSE_FILE: (8, 16),
    CLOSE_SESSION: (4, 16),
}
"""Payload sizes of requests by type."""

HEADER: Final = struct.Struct("<IIII")  # magic, type, payload size, opId
ERROR_BODY: Final = struct.Struct("<QII")  # code, 0, text length
SESSION_BODY: Final = struct.Struct("<IIII")  # 0, buffer bytes, buffer count, 0
OPEN_BODY: Final = struct.Struct("<I12xII36x")  # path length, file type, flags
OPENED_BODY: Final = struct.Struct("<QQII4xQIIII8x")
# status, handle, file type, flags, capacity, sector size, cylinders, heads, sectors
READ_BODY: Final = struct.Struct("<QIIQQIII")
# handle, direction, compression, offset, length three times (the last: extra bytes of a write), 0
FRAGMENT_BODY: Final = struct.Struct("<QIIQIIIII")
# status, 1, compression, request's offset, request's length, offset in it, length, extra bytes, 0
FRAGMENT_HEAD: Final = struct.Struct("<IIIIQIIQIIIII")  # the header and such a payload
ALLOCATED_BODY: Final = struct.Struct("<QQQQQQ")  # handle, 0, chunk, start, count, 0
BITMAP_BODY: Final = struct.Struct("<32xQ8x")  # count
DDB_BODY: Final = struct.Struct("<QII")  # handle, key length, 0
VALUE_BODY: Final = struct.Struct("<12xI")  # value length
HANDLE: Final = struct.Struct("<Q")

PLAIN, ZLIB, FASTLZ, SKIPZ = 0, 1, 2, 3
NAMES: Final = {ZLIB: "zlib", FASTLZ: "fastlz", SKIPZ: "skipz"}
READ_ONLY_FLAG: Final = 0x04
NO_BUFFER, NOT_ALLOWED = 5, 11
"""Codes of ERROR records that the field has seen; other numbers are unknown."""
INVALID, NOT_FOUND, MULTIWRITER, UNSUPPORTED = 2, 4, 6, 7
"""Codes of this server for refusals whose real numbers are unknown."""


@dataclass(slots=True)
class Record:
    """A request: type, opId and fixed payload."""

    kind: int
    op_id: int
    payload: bytes


def record(kind: int, op_id: int, payload: bytes, extra: bytes = b"") -> bytes:
    """Return a record with its extra."""
    return HEADER.pack(MAGIC, kind, len(payload), op_id) + payload + extra


def error_record(op_id: int, code: int, text: str) -> bytes:
    """Return an ERROR record."""
    encoded = text.encode()
    return record(ERROR, op_id, ERROR_BODY.pack(code, 0, len(encoded)), encoded)


def message(kind: int, *numbers: int, at: int = 4) -> bytes:
    """Return a message of the handshake with *numbers* from offset *at* on."""
    packed = struct.pack(f"<{len(numbers)}I", *numbers)
    return (struct.pack("<I", kind) + bytes(at - 4) + packed).ljust(CLASSIC, b"\0")


def classic_error(code: int, text: str) -> bytes:
    """Return an ERROR message of the handshake; its text ends with a NUL."""
    encoded = text.encode() + b"\0"
    return message(CLASSIC_ERROR, 1, code, len(encoded)) + encoded
