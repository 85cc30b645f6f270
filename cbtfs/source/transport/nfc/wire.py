"""Numbers and layouts of NFC, and the error for bytes that violate them.

Integers are little-endian. The facts come from observations of ESXi 7.0.3 and 8.0 that others
published; VMware publishes no documentation.
"""

import struct
from enum import IntEnum
from typing import Final

from cbtfs.errors import SourceUnavailable


class NfcProtocolError(SourceUnavailable):
    """Raised for bytes that violate the protocol; the connection cannot be used any longer."""


class Classic(IntEnum):
    """Types of the messages of 264 bytes."""

    COMPLETE = 4
    ERROR = 20
    PARAMETERS = 33
    STATUS = 36
    TAG = 43
    VERSION = 51
    AIO = 52
    CLIENT = 54
    FEATURES = 55


class Aio(IntEnum):
    """Types of the records that follow the switch to AIO."""

    ERROR = 1
    OPEN_SESSION = 2
    CLOSE_SESSION = 3
    OPEN_FILE = 4
    CLOSE_FILE = 5
    IO = 7
    SET_SOCK_OPTS = 9
    DDB_GET = 11
    QUERY_ALLOCATED = 13
    SET_RES_POOL = 22


class Compression(IntEnum):
    """Encodings of the data of a fragment."""

    NONE = 0
    ZLIB = 1
    SKIPZ = 3


CLASSIC_BYTES: Final = 264
MAGIC: Final = 0xA100DA7A
HEADER: Final = struct.Struct("<IIII")
"""Of a record: magic, type, size of the payload, operation."""

REPLY_BYTES: Final = {
    Aio.ERROR: 16,
    Aio.OPEN_SESSION: 16,
    Aio.CLOSE_SESSION: 4,
    Aio.OPEN_FILE: 60,
    Aio.CLOSE_FILE: 8,
    Aio.IO: 44,
    Aio.SET_SOCK_OPTS: 12,
    Aio.DDB_GET: 16,
    Aio.QUERY_ALLOCATED: 48,
    Aio.SET_RES_POOL: 4,
}
"""Size of the payload of each reply. A longer payload is refused: its data could be misread."""

ERROR_PAYLOAD: Final = struct.Struct("<QII")
"""Code, unused, length of the text."""
OPEN_REQUEST: Final = struct.Struct("<I12xII36x")
"""Length of the path, file type, flags."""
OPEN_REPLY: Final = struct.Struct("<QQII4xQI20x")
"""Status, handle, file type, flags, capacity in bytes, sector size."""
READ_REQUEST: Final = struct.Struct("<QIIQQIII")
"""Handle, direction, compression, offset, length three times, unused."""
READ_REPLY: Final = struct.Struct("<QIIQIIIII")
"""Status, one, compression, offset of the request, its length, offset of the fragment in it,
length of the fragment, bytes that follow, unused."""
ALLOCATED: Final = struct.Struct("<QQQQQQ")
"""Handle, unused, bytes of a chunk, first byte, number of chunks, unused."""
DDB_REQUEST: Final = struct.Struct("<QII")
"""Handle, length of the key, unused."""

SECTOR: Final = 512
MAX_READ: Final = 1 << 20
"""Maximum length of a read in bytes; longer ones can exceed the memory of a host."""
CHUNK: Final = 1 << 16
"""Bytes of a chunk in a query of allocated blocks; VMware's library allows no smaller one."""
MAX_CHUNKS: Final = 1 << 19
"""Maximum number of chunks of one query, as in VMware's library."""
MAX_TEXT: Final = 1 << 16
MAX_VALUE: Final = 1 << 12
"""Maximum length of a value of the disk's database in bytes."""
