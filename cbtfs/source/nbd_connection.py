"""One connection to an NBD server, with several requests in flight, through libnbd."""

import ctypes
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source import libnbd

REQUEST_BYTES: Final = 2 << 20
"""Maximum length of one read; VMware's servers refuse much longer ones (VDDK Programming Guide)."""
_MAX_PER_ANSWER: Final = 1 << 16
"""Maximum number of extents used of one answer; the next request covers the rest."""
_IN_FLIGHT: Final = 4
_POLL_MS: Final = 1000


class Status(NamedTuple):
    """An extent of a disk with its flags in a metadata context."""

    extent: Extent
    flags: int


def statuses_of(pairs: Iterable[tuple[int, int]], start: int, length: int) -> list[Status]:
    """Convert pairs of length and flags to extents of [start, start + length), or of its start.

    A length beyond the end is truncated; a length of zero is ignored.
    """
    statuses, at = [], start
    for count, flags in pairs:
        count = min(count, start + length - at)
        if count > 0:
            statuses.append(Status(Extent(at, count), flags))
            at += count
    return statuses


class ConnectionLost(Exception):
    """Raised when the connection is lost; the text is the reason."""


class NbdConnection:
    """One libnbd handle; only one thread at a time may use it."""

    def __init__(
        self, uri: str, name: str, contexts: Sequence[str], connect_seconds: float, seconds: float
    ) -> None:
        """Connect within *connect_seconds*; *seconds* is the timeout of each request."""
        self._lib = libnbd.library()
        self._name = name
        self._seconds = seconds
        self._contexts = contexts
        self._handle = self._lib.nbd_create()
        if not self._handle:
            raise SourceUnavailable(f"{name}: {libnbd.last_error()[0]}")
        try:
            self._connect(uri, connect_seconds)
            self.size = self._checked(self._lib.nbd_get_size(self._handle))
            self.minimum = self._block_size(libnbd.SIZE_MINIMUM) or 1
            self.maximum = self._block_size(libnbd.SIZE_MAXIMUM) or REQUEST_BYTES
            self.is_shared = self._lib.nbd_can_multi_conn(self._handle) == 1
            self.is_read_only = self._lib.nbd_is_read_only(self._handle) != 0
            self.can_zero = self._lib.nbd_can_zero(self._handle) == 1
            self.can_flush = self._lib.nbd_can_flush(self._handle) == 1
        except BaseException:
            self.close()
            raise

    def _connect(self, uri: str, connect_seconds: float) -> None:
        self._checked(self._lib.nbd_set_uri_allow_local_file(self._handle, True))
        for context in self._contexts:
            self._checked(self._lib.nbd_add_meta_context(self._handle, context.encode()))
        try:
            self._started(self._lib.nbd_aio_connect_uri(self._handle, uri.encode()))
            due = time.monotonic() + connect_seconds
            while self._lib.nbd_aio_is_connecting(self._handle):
                self._poll(due, connect_seconds)
            if not self._lib.nbd_aio_is_ready(self._handle):
                raise ConnectionLost(libnbd.last_error()[0])
        except ConnectionLost as exc:
            raise SourceUnavailable(f"cannot open {self._name}: {exc}") from exc

    def _block_size(self, which: int) -> int:
        return max(int(self._lib.nbd_get_block_size(self._handle, which)), 0)

    def has_context(self, context: str) -> bool:
        return bool(self._lib.nbd_can_meta_context(self._handle, context.encode()) == 1)

    def read(self, start: int, length: int, request: int) -> memoryview:
        """Return *length* bytes, by concurrent requests of at most *request* bytes.

        After an error the handle is closed first, because libnbd still writes the answers of
        requests in flight into the buffer.
        """
        buffer = bytearray(length)
        whole = (ctypes.c_char * length).from_buffer(buffer)
        base = ctypes.addressof(whole)

        def start_read(at: int, count: int) -> Any:
            return self._lib.nbd_aio_pread(
                self._handle, base + at, count, start + at, libnbd.CompletionCallback(), 0
            )

        self._transfer(start_read, length, request, f"read at {start}")
        return memoryview(buffer)

    def write(self, start: int, data: bytes | memoryview, request: int) -> None:
        """Write *data* at *start*, by concurrent requests of at most *request* bytes."""
        whole = (ctypes.c_char * len(data)).from_buffer_copy(data)
        base = ctypes.addressof(whole)

        def start_write(at: int, count: int) -> Any:
            return self._lib.nbd_aio_pwrite(
                self._handle, base + at, count, start + at, libnbd.CompletionCallback(), 0
            )

        self._transfer(start_write, len(data), request, f"write at {start}")

    def zero(self, start: int, length: int, request: int) -> None:
        """Make *length* bytes at *start* read as zeros; the server may deallocate them."""

        def start_zero(at: int, count: int) -> Any:
            return self._lib.nbd_aio_zero(
                self._handle, count, start + at, libnbd.CompletionCallback(), 0
            )

        self._transfer(start_zero, length, request, f"zero at {start}")

    def flush(self) -> None:
        """Flush all completed writes, those of other connections included if is_shared."""

        def start_flush(_: int, __: int) -> Any:
            return self._lib.nbd_aio_flush(self._handle, libnbd.CompletionCallback(), 0)

        self._transfer(start_flush, 1, 1, "flush")

    def _transfer(
        self, start: Callable[[int, int], Any], length: int, request: int, what: str
    ) -> None:
        """Start requests of at most *request* bytes by *start*(offset, count), and await them."""
        waiting: list[int] = []
        at = 0
        try:
            while at < length or waiting:
                while at < length and len(waiting) < _IN_FLIGHT:
                    count = min(request, length - at)
                    waiting.append(self._started(start(at, count)))
                    at += count
                waiting = self._finish_some(waiting, what)
        except BaseException:
            self.close()
            raise

    def statuses(self, context: str, start: int, length: int) -> list[Status]:
        """Return the extents of a context from *start*, up to *length* bytes, with their flags."""
        entries: list[tuple[int, int]] = []

        def take(_: Any, name: bytes, at: int, pairs: Any, count: int, error: Any) -> int:
            if name.decode("utf-8", "replace") == context and at == start:
                count = min(count, 2 * _MAX_PER_ANSWER)
                entries.extend((pairs[i], pairs[i + 1]) for i in range(0, count - 1, 2))
            return 0

        function = libnbd.EXTENT_FUNCTION(take)
        try:
            waiting = [
                self._started(
                    self._lib.nbd_aio_block_status(
                        self._handle,
                        length,
                        start,
                        libnbd.ExtentCallback(function, None, None),
                        libnbd.CompletionCallback(),
                        0,
                    )
                )
            ]
            while waiting:
                waiting = self._finish_some(waiting, f"query the extents at {start}")
        except BaseException:
            self.close()
            raise
        statuses = statuses_of(entries, start, length)
        if not statuses:
            raise SourceUnavailable(f"{self._name} returns no extents of {context} at {start}")
        return statuses

    def _finish_some(self, cookies: list[int], what: str) -> list[int]:
        """Wait until at least one request is done; return the others."""
        due = time.monotonic() + self._seconds
        while True:
            left = [cookie for cookie in cookies if not self._is_done(cookie, what)]
            if len(left) < len(cookies):
                return left
            self._poll(due, self._seconds)

    def _is_done(self, cookie: int, what: str) -> bool:
        state = self._lib.nbd_aio_command_completed(self._handle, cookie)
        if state < 0:
            message, number = libnbd.last_error()
            if self._is_lost():
                raise ConnectionLost(message)
            raise SourceUnavailable(f"cannot {what} of {self._name}: {libnbd.error_name(number)}")
        return bool(state)

    def _poll(self, due: float, seconds: float) -> None:
        left = due - time.monotonic()
        if left <= 0:
            raise ConnectionLost(f"no answer in {seconds:g} s")
        wait = min(_POLL_MS, int(left * 1000) + 1)
        if self._lib.nbd_poll(self._handle, wait) < 0:
            raise ConnectionLost(libnbd.last_error()[0])

    def _started(self, result: int) -> int:
        """Return the cookie of a started request; raise ConnectionLost after an error."""
        if result < 0:
            raise ConnectionLost(libnbd.last_error()[0])
        return result

    def _is_lost(self) -> bool:
        lib = self._lib
        return bool(lib.nbd_aio_is_dead(self._handle) or lib.nbd_aio_is_closed(self._handle))

    def _checked(self, result: int) -> int:
        """Return the *result* of a call; raise SourceUnavailable after an error."""
        if result < 0:
            raise SourceUnavailable(f"{self._name}: {libnbd.last_error()[0]}")
        return int(result)

    def close(self) -> None:
        if self._handle:
            self._lib.nbd_close(self._handle)
            self._handle = None
