"""HTTPS connections whose answers are bounded in bytes and in time.

The time limit of a socket holds for one receive: a server that sends a byte now and then keeps a
client for ever. A few kilobytes of gzip expand to gigabytes, and so do the entities of a document
type. All of them end here as an error that names the server, and is not tried again.
"""

import io
import socket
import time
import zlib
from http.client import HTTPResponse, HTTPSConnection
from ssl import SSLContext
from typing import Any, Final

from cbtfs.errors import SourceUnavailable

MAX_BYTES: Final = 64 << 20
"""Of one answer, decompressed. 1000 entries of an inventory are 1 MB, 100 configurations 2 MB."""
CALL_SECONDS: Final = 600.0
"""For one answer, from the request to its last byte."""
_GZIP: Final = zlib.MAX_WBITS + 32
"""zlib.decompressobj: a header of gzip or zlib."""
_PIECE: Final = 1 << 16
_DOCUMENT_TYPES: Final = tuple(
    "<!DOCTYPE".encode(each) for each in ("ascii", "utf-16-le", "utf-16-be")
)
_OVERLAP: Final = max(map(len, _DOCUMENT_TYPES)) - 1


class AnswerRefused(SourceUnavailable):
    """Raised when a server answers with too much, or for too long."""


class BoundedConnection(HTTPSConnection):
    """A connection that refuses answers beyond its limits."""

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        timeout: float,
        context: SSLContext,
        call_seconds: float = CALL_SECONDS,
        max_bytes: int = MAX_BYTES,
        is_xml: bool = False,
    ) -> None:
        """*is_xml*: answers are SOAP, which forbids a document type (SOAP 1.1, section 3)."""
        super().__init__(host, port, timeout=timeout, context=context)
        self._call_seconds = call_seconds
        self._max_bytes = max_bytes
        self._is_xml = is_xml
        self._due = 0.0

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    def request(self, *arguments: Any, **named: Any) -> None:
        self._due = time.monotonic() + self._call_seconds
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        super().request(*arguments, **named)

    def response_class(  # type: ignore[override]  # http.client calls it, as it would a class
        self, sock: socket.socket, method: str | None = None, **named: Any
    ) -> "BoundedResponse":
        limits = _Limits(
            self.server, self._due, self._call_seconds, self._max_bytes, is_xml=self._is_xml
        )
        return BoundedResponse(sock, limits, method=method, **named)

    def getresponse(self) -> HTTPResponse:
        try:
            return super().getresponse()
        except AnswerRefused:
            self.close()
            raise


class _Limits:
    """What one answer may take."""

    def __init__(
        self, server: str, due: float, seconds: float, max_bytes: int, *, is_xml: bool
    ) -> None:
        self._server = server
        self._due = due
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._taken = 0
        self._is_xml = is_xml
        self._end = b""
        """The last bytes of XML: a word may begin in them."""

    def left(self) -> float:
        """Seconds; AnswerRefused if there are none."""
        left = self._due - time.monotonic()
        if left <= 0:
            raise AnswerRefused(
                f"{self._server} did not complete an answer in {self._seconds:g} s: see whether it "
                "is overloaded, and what answers there"
            )
        return left

    def expect(self, count: int | None) -> None:
        """AnswerRefused if so many bytes more are too many."""
        if self._taken + (count or 0) > self._max_bytes:
            raise AnswerRefused(
                f"{self._server} answers with more than {self._max_bytes} bytes: it is not read "
                "further; see what answers there"
            )

    def take(self, data: bytes) -> bytes:
        """*data*, counted."""
        self.expect(len(data))
        self._taken += len(data)
        if self._is_xml:
            text = self._end + data
            if any(each in text for each in _DOCUMENT_TYPES):
                raise AnswerRefused(
                    f"{self._server} answers with a document type, which SOAP forbids: see what "
                    "answers there"
                )
            self._end = text[-_OVERLAP:]
        return data

    @property
    def spare(self) -> int:
        """Bytes that may still be taken, and one more, by which too many are noticed."""
        return self._max_bytes - self._taken + 1


class _Stream(io.RawIOBase):
    """What a socket receives until the time for an answer is over."""

    def __init__(self, sock: socket.socket, limits: _Limits) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._socket_timeout = sock.gettimeout()
        self._limits = limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._limits.left()
        is_last = self._socket_timeout is None or left < self._socket_timeout
        self._sock.settimeout(left if is_last else self._socket_timeout)
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if is_last:
                self._limits.left()
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(HTTPResponse):
    """An answer of which no more is read than the limits allow; decompressed here."""

    def __init__(self, sock: socket.socket, limits: _Limits, **named: Any) -> None:
        super().__init__(sock, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Stream(sock, limits))
        self._limits = limits
        self._inflate: Any = None

    def begin(self) -> None:
        super().begin()
        coding = (super().getheader("Content-Encoding") or "identity").lower()
        if coding in ("gzip", "deflate"):
            self._inflate = zlib.decompressobj(_GZIP)
        else:
            self._limits.expect(self.length)

    def getheader(self, name: str, default: Any = None) -> Any:
        """The header; an answer that is decompressed here is not called compressed."""
        if name.lower() == "content-encoding" and self._inflate is not None:
            return default
        return super().getheader(name, default)

    def read(self, amt: int | None = None) -> bytes:
        if self._inflate is not None:
            return self._inflated(amt)
        most = self._limits.spare if amt is None else min(amt, self._limits.spare)
        return self._limits.take(super().read(most))

    def _inflated(self, amt: int | None) -> bytes:
        wanted = self._limits.spare if amt is None else min(amt, self._limits.spare)
        found = bytearray()
        while len(found) < wanted and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or super().read(_PIECE)
            if not packed:
                break
            try:
                found += self._inflate.decompress(packed, wanted - len(found))
            except zlib.error as exc:
                raise OSError(f"the answer cannot be decompressed: {exc}") from exc
        if self._inflate.eof:
            while super().read(_PIECE):  # the connection can be used again
                pass
        return self._limits.take(bytes(found))
