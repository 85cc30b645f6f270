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
"""Maximum number of bytes of one receive."""


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
        self._buffer = memoryview(bytearray(_PIECE))
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
                self._incoming.write(self._received())
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
        if self._tls is None:
            raw = self._received()
            self._buffer[: len(raw)] = raw
            return self._buffer[: len(raw)]
        while True:
            count = self._decrypted(self._tls)
            if self._outgoing.pending:
                with self._send_lock:
                    self._flush()
            if count:
                return self._buffer[:count]
            raw = self._received()
            if not raw:
                return self._buffer[:0]
            with self._tls_lock:
                self._incoming.write(raw)

    def _decrypted(self, tls: ssl.SSLObject) -> int:
        """Decrypt the received records into the buffer; return the number of bytes."""
        count = 0
        with self._tls_lock:
            while count < _PIECE:
                try:
                    size = tls.read(_PIECE - count, self._buffer[count:])
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLZeroReturnError:
                    if count:
                        break
                    raise ConnectionLost(f"{self.peer} ended the TLS session") from None
                except ssl.SSLError as exc:
                    raise NfcProtocolError(
                        f"TLS with {self.peer} failed: {exc.reason or exc}"
                    ) from exc
                count += int(size)
        return count

    def _received(self) -> bytes:
        if self._deadline is not None:
            self._socket.settimeout(self._deadline.left())
        try:
            raw = self._socket.recv(_PIECE)
        except BlockingIOError:
            return b""
        except TimeoutError:
            if self._deadline is not None:
                self._deadline.left()
            raise ConnectionLost(f"{self.peer} does not answer") from None
        except OSError as exc:
            raise ConnectionLost(
                f"the connection to {self.peer} broke: {exc.strerror or exc}"
            ) from exc
        if not raw:
            raise ConnectionLost(f"{self.peer} closed the connection")
        return raw

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

    def _broken(self, exc: OSError) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.peer} broke: {exc.strerror or exc}")

    # end

    def abort(self) -> None:
        """End the connection; a thread that receives gets ConnectionLost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. No other thread may use it any longer."""
        self._socket.close()
