"""The bytes of one connection: a socket that changes between clear text and TLS."""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable

LINE = 1024  # longest line of authd
PIECE = 65536


class Ended(Exception):
    """Raised when the connection is over."""


class Channel:
    """A connection. Every method raises Ended or OSError when it is over."""

    def __init__(self, stream: socket.socket, keep: Callable[[socket.socket], None]) -> None:
        """Serve *stream*; *keep* receives each socket that replaces it."""
        self.stream = stream
        self._keep = keep
        self._received = b""
        self._position = 0

    # TLS

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do a handshake on the bare connection."""
        self.stream = context.wrap_socket(self.stream, server_side=True)
        self._keep(self.stream)

    def leave_tls(self) -> None:
        """Return to the bare connection without close_notify; raises Ended if bytes are left."""
        if self._position < len(self._received):
            raise Ended("bytes after the last line of authd")
        assert isinstance(self.stream, ssl.SSLSocket)
        self.stream = socket.socket(fileno=self.stream.detach())
        self._keep(self.stream)

    # receiving

    def take(self, length: int) -> bytes:
        """Return exactly *length* bytes."""
        while len(self._received) - self._position < length:
            piece = self.stream.recv(PIECE)
            if not piece:
                raise Ended
            self._received = self._received[self._position :] + piece
            self._position = 0
        start = self._position
        self._position += length
        return self._received[start : self._position]

    def line(self) -> str:
        """Return a line without its end."""
        text = b""
        while not text.endswith(b"\n"):
            text += self.take(1)
            if len(text) > LINE:
                raise Ended("a line is too long")
        return text.decode("utf-8", "replace").rstrip("\r\n")

    def has_more(self) -> bool:
        """Return whether bytes can be received without waiting."""
        if self._position < len(self._received):
            return True
        if isinstance(self.stream, ssl.SSLSocket) and self.stream.pending():
            return True
        poll = select.poll()
        poll.register(self.stream.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # sending

    def send(self, data: bytes | memoryview) -> None:
        """Send everything in one write."""
        self.stream.sendall(data)

    def drip(self, data: bytes, seconds: float) -> None:
        """Send byte by byte."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            time.sleep(seconds)

    def hold(self) -> None:
        """Send nothing more; raises Ended when the client closes the connection."""
        while self.stream.recv(PIECE):
            pass
        raise Ended("the client closed the silent connection")

    def close(self) -> None:
        """Close the connection without close_notify."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.stream, socket.SHUT_RDWR)
        self.stream.close()

    def reset(self) -> None:
        """Reset the connection; raises Ended."""
        with contextlib.suppress(OSError):
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.close()
        raise Ended("reset by a rule")
