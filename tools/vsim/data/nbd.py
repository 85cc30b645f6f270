"""The server side of the NBD protocol: option negotiation, then requests.

Fixed newstyle, read-only, structured replies, base:allocation. Source: the NBD protocol document,
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from tools.vsim.knobs import DataKnobs
from tools.vsim.model.hidden import shown
from tools.vsim.model.image import data_spans, read_padded
from tools.vsim.model.span import Span, clipped
from tools.vsim.rules import ReadRule

OPTION_MAGIC = 0x49484156454F5054  # IHAVEOPT
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 6, 7, 8, 9, 10
ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR_UNSUPPORTED, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN = (
    1 << 31 | number for number in (1, 2, 3, 6)
)
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, READ_ONLY, SEND_DF, MULTI_CONN = 1, 2, 128, 256
READ, WRITE, DISCONNECT, BLOCK_STATUS = 0, 1, 2, 7
FLAG_DF, FLAG_REQ_ONE = 1 << 2, 1 << 3
CHUNK_DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 2, 5, 1 << 15 | 1
EPERM, EIO, EINVAL = 1, 5, 22
ALLOCATION, ALLOCATION_ID = b"base:allocation", 1
STATE_HOLE, STATE_ZERO = 1, 2
MAX_REQUEST = 32 << 20
MAX_STATUS = 4096  # maximum of descriptors in one reply
MAX_OPTION = 65536


class Closed(Exception):
    """Raised when the connection ends."""


class Export(Protocol):
    """A disk that the server can export."""

    fd: int
    size: int
    announced: int  # bytes; differs from size if a knob says so

    def on_read(self, start: int, end: int) -> ReadRule | None:
        """Wait as the knobs say; return the rule that acts on this read."""

    def close(self) -> None:
        """Close the export."""


class Exports(Protocol):
    """The exports of a server."""

    def names(self) -> list[str]:
        """Return the names of all exports."""

    def open(self, name: str) -> Export | None:
        """Open an export; None if it does not exist. Raises PermissionError."""

    @property
    def knobs(self) -> DataKnobs: ...


@dataclass(slots=True)
class Conversation:
    """One NBD connection."""

    stream: BinaryIO
    exports: Exports
    export: Export | None = None
    structured: bool = False
    allocation: bool = False
    no_zeroes: bool = False

    def run(self) -> None:
        """Serve until the connection ends; raises Closed."""
        self._send(b"NBDMAGIC", struct.pack(">QH", OPTION_MAGIC, 1 | 2))
        (flags,) = struct.unpack(">I", self._take(4))
        self.no_zeroes = bool(flags & 2)
        while self.export is None:
            self._option()
        while True:
            self._request(self.export)

    # options

    def _option(self) -> None:
        magic, option, length = struct.unpack(">QII", self._take(16))
        if magic != OPTION_MAGIC or length > MAX_OPTION:
            raise Closed
        data = self._take(length)
        try:
            self._answer(option, data)
        except (struct.error, UnicodeDecodeError):
            self._reply(option, ERR_INVALID, b"malformed")

    def _answer(self, option: int, data: bytes) -> None:
        match option:
            case 1:
                self._export_name(data.decode())
            case 2:
                self._reply(option, ACK)
                raise Closed
            case 3:
                for name in self.exports.names():
                    self._reply(option, REP_SERVER, struct.pack(">I", len(name)) + name.encode())
                self._reply(option, ACK)
            case 6 | 7:
                self._info(option, data)
            case 8:
                self.structured = True
                self._reply(option, ACK)
            case 9 | 10:
                self._meta(option, data)
            case _:
                self._reply(option, ERR_UNSUPPORTED)

    def _export_name(self, name: str) -> None:
        try:
            self.export = self.exports.open(name)
        except PermissionError as error:
            raise Closed from error
        if self.export is None:
            raise Closed
        padding = b"" if self.no_zeroes else bytes(124)
        self._send(struct.pack(">QH", self.export.announced, self._flags()), padding)

    def _info(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        name = data[4 : 4 + length].decode()
        try:
            export = self.exports.open(name)
        except PermissionError as error:
            self._reply(option, ERR_POLICY, str(error).encode())
            return
        if export is None:
            self._reply(option, ERR_UNKNOWN, b"no such export")
            return
        about = struct.pack(">HQH", INFO_EXPORT, export.announced, self._flags())
        self._reply(option, REP_INFO, about)
        sizes = (INFO_BLOCK_SIZE, self.exports.knobs.min_block, 4096, MAX_REQUEST)
        self._reply(option, REP_INFO, struct.pack(">HIII", *sizes))
        self._reply(option, ACK)
        if option == GO:
            self.export = export
        else:
            export.close()

    def _meta(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        (count,) = struct.unpack_from(">I", data, 4 + length)
        position, queries = 8 + length, []
        for _ in range(count):
            (size,) = struct.unpack_from(">I", data, position)
            queries.append(data[position + 4 : position + 4 + size])
            position += 4 + size
        is_requested = (
            ALLOCATION in queries or b"base:" in queries or (option == LIST_META and not count)
        )
        is_offered = is_requested and self.exports.knobs.holes != "none"
        if is_offered:
            self._reply(option, REP_META, struct.pack(">I", ALLOCATION_ID) + ALLOCATION)
        if option == SET_META:
            self.allocation = is_offered and self.structured
        self._reply(option, ACK)

    def _flags(self) -> int:
        return HAS_FLAGS | READ_ONLY | MULTI_CONN | (SEND_DF if self.structured else 0)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._send(struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)), data)

    # requests

    def _request(self, export: Export) -> None:
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", self._take(28))
        if magic != REQUEST_MAGIC or kind == DISCONNECT:
            raise Closed
        block = self.exports.knobs.min_block
        if kind == WRITE:
            for taken in range(0, length, MAX_REQUEST):
                self._take(min(MAX_REQUEST, length - taken))
        if kind not in (READ, BLOCK_STATUS):
            self._error(cookie, EPERM, "read-only")
        elif (
            not length
            or length > (MAX_REQUEST if kind == READ else 1 << 32)
            or offset + length > export.announced
            or offset % block
            or length % block
        ):
            self._error(cookie, EINVAL, "range is outside the disk or unaligned")
        elif kind == READ:
            self._read(export, cookie, offset, length, whole=bool(flags & FLAG_DF))
        elif self.allocation:
            self._status(export, cookie, offset, length, one=bool(flags & FLAG_REQ_ONE))
        else:
            self._error(cookie, EINVAL, "no metadata context")

    def _read(self, export: Export, cookie: int, offset: int, length: int, whole: bool) -> None:
        rule = export.on_read(offset, offset + length)
        if rule and rule.action == "eio":
            self._error(cookie, EIO, "injected")
            return
        cut = rule is not None and rule.action in ("close", "short")
        if not self.structured:
            data = read_padded(export.fd, offset, length)
            self._send(
                struct.pack(">IIQ", SIMPLE_MAGIC, 0, cookie), data[: length // 2] if cut else data
            )
        elif whole or cut:
            data = read_padded(export.fd, offset, length)
            body = struct.pack(">Q", offset) + data
            self._chunk(cookie, CHUNK_DATA, body, done=True, sent=len(body) // 2 if cut else None)
        else:
            for span, is_data in _allocation(export.fd, offset, length):
                if is_data:
                    data = read_padded(export.fd, span.start, span.length)
                    self._chunk(cookie, CHUNK_DATA, struct.pack(">Q", span.start) + data)
                else:
                    self._chunk(cookie, CHUNK_HOLE, struct.pack(">QI", span.start, span.length))
            self._chunk(cookie, CHUNK_NONE, b"", done=True)
        if cut:
            raise Closed

    def _status(self, export: Export, cookie: int, offset: int, length: int, one: bool) -> None:
        hole = STATE_HOLE | (STATE_ZERO if self.exports.knobs.holes == "zero" else 0)
        body = struct.pack(">I", ALLOCATION_ID)
        misses = self.exports.knobs.allocation_misses
        pieces = _allocation(export.fd, offset, length, misses)
        for number, (span, is_data) in enumerate(pieces):
            if number == (1 if one else MAX_STATUS):
                break
            body += struct.pack(">II", span.length, 0 if is_data else hole)
        self._chunk(cookie, CHUNK_STATUS, body, done=True)

    def _error(self, cookie: int, code: int, text: str) -> None:
        if self.structured:
            body = struct.pack(">IH", code, len(text)) + text.encode()
            self._chunk(cookie, CHUNK_ERROR, body, done=True)
        else:
            self._send(struct.pack(">IIQ", SIMPLE_MAGIC, code, cookie))

    def _chunk(
        self, cookie: int, kind: int, body: bytes, *, done: bool = False, sent: int | None = None
    ) -> None:
        head = struct.pack(">IHHQI", CHUNK_MAGIC, CHUNK_DONE * done, kind, cookie, len(body))
        self._send(head, body[:sent])

    # bytes

    def _take(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) < length:
            raise Closed
        return data

    def _send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.stream.write(piece)
        self.stream.flush()


def _allocation(
    fd: int, offset: int, length: int, misses: float = 0.0
) -> Iterator[tuple[Span, bool]]:
    """Return ascending pieces of the range, with True for data and False for holes.

    The share *misses* of the blocks with data counts as holes.
    """
    bounds = Span(offset, offset + length)
    position = offset
    for span in clipped(shown(data_spans(fd, bounds.end, offset), misses), bounds):
        if span.start > position:
            yield Span(position, span.start), False
        yield span, True
        position = span.end
    if position < bounds.end:
        yield Span(position, bounds.end), False
