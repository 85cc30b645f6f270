"""One TCP connection to a host: in clear, or under TLS, which can start twice.

The authentication daemon ends its TLS session without a close_notify, and the disk service starts
another one on the same connection. `ssl.SSLSocket` cannot do that, so TLS runs over memory here.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from typing import Final

from cbtfs.core.names import printable
from cbtfs.source.transport.nfc.failures import ConnectionLost
from cbtfs.source.transport.nfc.wire import NfcProtocolError

_PIECE: Final = 256 << 10
"""Maximum number of bytes of one receive from the socket."""
_MOST_LINES: Final = 64 << 10
"""Maximum number of bytes that receive() returns at once."""


class Deadline:
    """A point in time until which a host must have answered."""

    def __init__(self, seconds: float, what: str) -> None:
        """*what* names the awaited answer in the error."""
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._what = what

    def left(self) -> float:
        """Return the seconds that are left; raise ConnectionLost if none are."""
        left = self._due - time.monotonic()
        if left <= 0:
            raise ConnectionLost(f"{self._what}: no answer in {self._seconds:g} s")
        return left


class Channel:
    """A connection. One thread may receive while others send."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        """Connect; ConnectionLost if that fails within *seconds*."""
        self.peer = f"{printable(host)}:{port}"
        try:
            self._socket = socket.create_connection((host, port), seconds)
        except TimeoutError:
            raise ConnectionLost(
                f"cannot connect to {self.peer}: no answer in {seconds:g} s"
            ) from None
        except (OSError, UnicodeError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            raise ConnectionLost(f"cannot connect to {self.peer}: {why}") from exc
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._raw = memoryview(bytearray(_PIECE))
        """Bytes as the socket delivers them: under TLS, they are encrypted."""
        self._unread = self._raw[:0]
        """In clear: the bytes in the raw buffer that nobody has read."""
        self._buffer = memoryview(bytearray(_MOST_LINES))
        self._deadline: Deadline | None = None

    @property
    def tls_version(self) -> str | None:
        """The version of TLS; None in clear."""
        return None if self._tls is None else self._tls.version()

    # one thread, with a deadline: before the disk is open

    def until(self, deadline: Deadline) -> None:
        """Apply *deadline* to all later calls."""
        self._deadline = deadline

    def start_tls(self) -> bytes:
        """Do a TLS handshake; return the host's certificate in DER, which nobody has verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the caller compares it with the ticket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._incoming, self._outgoing)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._raw[: self._receive_raw()])
            except ssl.SSLError as exc:
                raise NfcProtocolError(f"TLS with {self.peer} failed: {exc.reason or exc}") from exc
            else:
                break
        self._flush()
        self._tls = tls
        return tls.getpeercert(binary_form=True) or b""

    def drop_tls(self) -> None:
        """Forget the TLS session, as the host does; NfcProtocolError if it has unread data."""
        if self._tls is not None and (self._incoming.pending or self._tls.pending()):
            raise NfcProtocolError(f"{self.peer} sends bytes that nobody asked for")
        self._tls = None

    # receive

    def become_concurrent(self, tick: float, send_seconds: float) -> None:
        """Let receive() return nothing after *tick* seconds without data; end the deadline.

        Sending fails after *send_seconds*. Both are timeouts of the kernel, because Python's would
        be common to both directions.
        """
        self._deadline = None
        self._socket.settimeout(None)
        for option, seconds in ((socket.SO_RCVTIMEO, tick), (socket.SO_SNDTIMEO, send_seconds)):
            whole = int(seconds)
            value = struct.pack("ll", whole, int((seconds - whole) * 1e6) or 1)
            self._socket.setsockopt(socket.SOL_SOCKET, option, value)

    def receive(self) -> memoryview:
        """Return received bytes, valid until the next call; none after a tick without data.

        ConnectionLost at the end of the connection.
        """
        while True:
            count = self.read_into(self._buffer)
            if count or not self.wait():
                return self._buffer[:count]

    def wait(self) -> bool:
        """Wait for bytes, which read_into() returns; return whether some came within a tick.

        Call it only after read_into() has returned 0. ConnectionLost at the end of the connection.
        """
        count = self._receive_raw()
        if self._tls is None:
            self._unread = self._raw[:count]
        elif count:
            with self._tls_lock:
                self._incoming.write(self._raw[:count])
        return count > 0

    def read_into(self, into: memoryview) -> int:
        """Copy or decrypt received bytes into *into*; return their number, 0 if there are none."""
        tls = self._tls
        if tls is None:
            count = min(len(into), len(self._unread))
            into[:count] = self._unread[:count]
            self._unread = self._unread[count:]
            return count
        count, length = 0, len(into)
        try:
            with self._tls_lock:
                while count < length:  # a call returns at most one record
                    count += tls.read(length - count, into[count:])  # type: ignore[operator]
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                with self._send_lock:
                    self._flush()
        except ssl.SSLZeroReturnError:
            if not count:
                raise ConnectionLost(f"{self.peer} ended the TLS session") from None
        except ssl.SSLError as exc:
            raise NfcProtocolError(f"TLS with {self.peer} failed: {exc.reason or exc}") from exc
        return count

    def _receive_raw(self) -> int:
        """Receive into the raw buffer; return the number of bytes, 0 after a tick without data."""
        if self._deadline is not None:
            self._socket.settimeout(self._deadline.left())
        try:
            count = self._socket.recv_into(self._raw)
        except BlockingIOError:
            return 0
        except TimeoutError:
            if self._deadline is not None:
                self._deadline.left()
            raise ConnectionLost(f"{self.peer} does not answer") from None
        except OSError as exc:
            raise ConnectionLost(
                f"the connection to {self.peer} broke: {exc.strerror or exc}"
            ) from exc
        if not count:
            raise ConnectionLost(f"{self.peer} closed the connection")
        return count

    # send

    def send(self, data: bytes) -> None:
        """Send *data*, in one TLS record if it is short."""
        with self._send_lock:
            if self._tls is None:
                self._send(data)
                return
            with self._tls_lock:
                try:
                    self._tls.write(data)
                except ssl.SSLError as exc:
                    raise NfcProtocolError(
                        f"TLS with {self.peer} failed: {exc.reason or exc}"
                    ) from exc
            self._flush()

    def _flush(self) -> None:
        with self._tls_lock:
            data = self._outgoing.read()
        if data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._deadline is not None:
            self._socket.settimeout(self._deadline.left())
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError):
            raise ConnectionLost(f"{self.peer} accepts no more data") from None
        except OSError as exc:
            raise ConnectionLost(
                f"the connection to {self.peer} broke: {exc.strerror or exc}"
            ) from exc

    # end

    def abort(self) -> None:
        """End the connection; a thread that receives gets ConnectionLost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. No other thread may use it any longer."""
        self._socket.close()
