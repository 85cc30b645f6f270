"""A small NBD client, written from the protocol document, independent of the server."""

import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

GO, STRUCTURED, SET_META = 7, 8, 10


class NbdError(Exception):
    """Raised when the server refuses a request or returns an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class NbdClient:
    """One connection to one export."""

    def __init__(self, uri: str, export: str, *, structured: bool = True) -> None:
        url = urlsplit(uri)
        if url.scheme == "nbd":
            assert url.hostname is not None
            self._socket = socket.create_connection((url.hostname, url.port or 10809), timeout=20)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(20)
            self._socket.connect(url.query.removeprefix("socket="))
        self._structured = structured
        self.size = 0
        self.flags = 0
        self.block_sizes: tuple[int, ...] = ()
        self.context: int | None = None
        self._cookie = 0
        try:
            self._handshake(export)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _handshake(self, export: str) -> None:
        magic, option_magic, flags = struct.unpack(">8s8sH", self._take(18))
        assert (magic, option_magic) == (b"NBDMAGIC", b"IHAVEOPT")
        assert flags & 3 == 3
        self._socket.sendall(struct.pack(">I", 3))
        name = export.encode()
        if self._structured:
            self._option(STRUCTURED, b"")
            query = b"base:allocation"
            data = struct.pack(">I", len(name)) + name
            data += struct.pack(">II", 1, len(query)) + query
            for kind, body in self._option(SET_META, data):
                assert kind == 4
                assert body[4:] == query
                (self.context,) = struct.unpack_from(">I", body)
        for kind, body in self._option(GO, struct.pack(">I", len(name)) + name + bytes(2)):
            assert kind == 3
            if struct.unpack_from(">H", body)[0] == 0:
                self.size, self.flags = struct.unpack_from(">QH", body, 2)
            else:
                self.block_sizes = struct.unpack_from(">III", body, 2)

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        self._socket.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while True:
            magic, echoed, kind, length = struct.unpack(">QIII", self._take(20))
            assert (magic, echoed) == (0x3E889045565A9, option)
            body = self._take(length)
            if kind == 1:
                return replies
            if kind & 1 << 31:
                raise NbdError(kind & 0x7FFFFFFF)
            replies.append((kind, body))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes; raises NbdError, ConnectionError."""
        self._request(0, offset, length)
        if not self._structured:
            magic, error, cookie = struct.unpack(">IIQ", self._take(16))
            assert (magic, cookie) == (0x67446698, self._cookie)
            if error:
                raise NbdError(error)
            return self._take(length)
        data = bytearray(b"\xff" * length)
        for kind, body in self._chunks():
            start = struct.unpack_from(">Q", body)[0] - offset
            if kind == 1:
                data[start : start + len(body) - 8] = body[8:]
            else:
                (zeros,) = struct.unpack_from(">I", body, 8)
                data[start : start + zeros] = bytes(zeros)
        return bytes(data)

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return (length, flags) of the extents from *offset*."""
        self._request(7, offset, length)
        extents = []
        for kind, body in self._chunks():
            assert kind == 5
            assert struct.unpack_from(">I", body)[0] == self.context
            extents += list(struct.iter_unpack(">II", body[4:]))
        return extents

    def write(self, offset: int, data: bytes) -> None:
        self._request(1, offset, len(data))
        self._socket.sendall(data)
        list(self._chunks())

    def _request(self, kind: int, offset: int, length: int) -> None:
        self._cookie += 1
        head = struct.pack(">IHHQQI", 0x25609513, 0, kind, self._cookie, offset, length)
        self._socket.sendall(head)

    def _chunks(self) -> list[tuple[int, bytes]]:
        chunks = []
        while True:
            head = struct.unpack(">IHHQI", self._take(20))
            magic, flags, kind, cookie, length = head
            assert (magic, cookie) == (0x668E33EF, self._cookie)
            body = self._take(length)
            if kind & 1 << 15:
                raise NbdError(struct.unpack_from(">I", body)[0])
            if kind:
                chunks.append((kind, body))
            if flags & 1:
                return chunks

    def _take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return bytes(data)
