"""HTTPS connections whose answers are bounded in bytes and in time.

A socket timeout applies to one receive only, so a server that sends a byte now and then blocks a
client for ever. A few kilobytes of gzip or of XML entities expand to gigabytes. Each of these cases
is an error here that names the server; it is not retried.
"""

import io
import socket
import time
import zlib
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from ssl import SSLContext
from typing import Any, Final

from cbtfs.errors import SourceUnavailable

MAX_BYTES: Final = 64 << 20
"""Maximum size of one answer, decompressed. 1000 VMs of an inventory are 1 MB, 100 VM
configurations 2 MB."""
CALL_SECONDS: Final = 600.0
"""Timeout of one answer, from the request to the last byte."""
_GZIP: Final = zlib.MAX_WBITS + 32
"""Value for zlib.decompressobj that accepts gzip and zlib headers."""
_PIECE: Final = 1 << 16
_DOCUMENT_TYPES: Final = tuple(
    "<!DOCTYPE".encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be")
)
_OVERLAP: Final = max(map(len, _DOCUMENT_TYPES)) - 1


class AnswerRefused(SourceUnavailable):
    """Raised when an answer is too long or takes too long."""


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Limits of one answer."""

    seconds: float = CALL_SECONDS
    """Timeout of the whole answer."""
    max_bytes: int = MAX_BYTES
    """Maximum size, decompressed."""
    is_xml: bool = False
    """Answers are SOAP, which forbids a document type (SOAP 1.1, section 3)."""


class BoundedConnection(HTTPSConnection):
    """A connection that refuses answers beyond its limits."""

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        timeout: float,
        context: SSLContext,
        limits: AnswerLimits,
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._answer_limits = limits
        self._due = 0.0

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    def request(self, *arguments: Any, **named: Any) -> None:
        self._due = time.monotonic() + self._answer_limits.seconds
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        super().request(*arguments, **named)

    def response_class(  # type: ignore[override]  # http.client calls it like a class
        self, sock: socket.socket, method: str | None = None, **named: Any
    ) -> "BoundedResponse":
        meter = _Meter(self.server, self._due, self._answer_limits)
        return BoundedResponse(sock, meter, method=method, **named)

    def getresponse(self) -> HTTPResponse:
        try:
            return super().getresponse()
        except AnswerRefused:
            self.close()
            raise


class _Meter:
    """Counts the bytes and the time of one answer against its limits."""

    def __init__(self, server: str, due: float, limits: AnswerLimits) -> None:
        self._server = server
        self._due = due
        self._limits = limits
        self._taken = 0
        self._end = b""
        """The last bytes of XML: a document type may start there."""

    def left(self) -> float:
        """Return the seconds that are left; raise AnswerRefused after the timeout."""
        left = self._due - time.monotonic()
        if left <= 0:
            raise AnswerRefused(
                f"{self._server} did not complete an answer in {self._limits.seconds:g} s: check "
                "whether it is overloaded, and which program answers there"
            )
        return left

    def expect(self, count: int | None) -> None:
        """Raise AnswerRefused if *count* more bytes exceed the limit."""
        if self._taken + (count or 0) > self._limits.max_bytes:
            raise AnswerRefused(
                f"{self._server} answers with more than {self._limits.max_bytes} bytes: check "
                "which program answers there"
            )

    def take(self, data: bytes) -> bytes:
        """Count *data* and return it."""
        self.expect(len(data))
        self._taken += len(data)
        if self._limits.is_xml:
            text = self._end + data
            if any(word in text for word in _DOCUMENT_TYPES):
                raise AnswerRefused(
                    f"{self._server} answers with a document type, which SOAP forbids: check "
                    "which program answers there"
                )
            self._end = text[-_OVERLAP:]
        return data

    @property
    def spare(self) -> int:
        """The number of bytes up to the limit and one more, to detect an excess."""
        return self._limits.max_bytes - self._taken + 1


class _TimedStream(io.RawIOBase):
    """Reads a socket until the timeout of the answer."""

    def __init__(self, sock: socket.socket, meter: _Meter) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._socket_timeout = sock.gettimeout()
        self._meter = meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._meter.left()
        is_last = self._socket_timeout is None or left < self._socket_timeout
        self._sock.settimeout(left if is_last else self._socket_timeout)
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if is_last:
                self._meter.left()
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(HTTPResponse):
    """An answer within its limits, decompressed here."""

    def __init__(self, sock: socket.socket, meter: _Meter, **named: Any) -> None:
        super().__init__(sock, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedStream(sock, meter))
        self._meter = meter
        self._inflate: Any = None

    def begin(self) -> None:
        super().begin()
        coding = (super().getheader("Content-Encoding") or "identity").lower()
        if coding in ("gzip", "deflate"):
            self._inflate = zlib.decompressobj(_GZIP)
        else:
            self._meter.expect(self.length)

    def getheader(self, name: str, default: Any = None) -> Any:
        """Return a header; Content-Encoding is hidden if the answer is decompressed here."""
        if name.lower() == "content-encoding" and self._inflate is not None:
            return default
        return super().getheader(name, default)

    def read(self, amt: int | None = None) -> bytes:
        if self._inflate is not None:
            return self._inflated(amt)
        count = self._meter.spare if amt is None else min(amt, self._meter.spare)
        return self._meter.take(super().read(count))

    def _inflated(self, amt: int | None) -> bytes:
        wanted = self._meter.spare if amt is None else min(amt, self._meter.spare)
        data = bytearray()
        while len(data) < wanted and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or super().read(_PIECE)
            if not packed:
                break
            try:
                data += self._inflate.decompress(packed, wanted - len(data))
            except zlib.error as exc:
                raise OSError(f"cannot decompress the answer: {exc}") from exc
        if self._inflate.eof:
            while super().read(_PIECE):  # drain it, so that the connection can be reused
                pass
        return self._meter.take(bytes(data))
