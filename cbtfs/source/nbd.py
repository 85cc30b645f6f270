"""A client of NBD servers: size, extents and bytes of one export, through libnbd.

A connection has several requests in flight; a server that allows it gets several connections.
An error from the server is final; a lost connection is opened again.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cbtfs.core.extent import Extent, complement
from cbtfs.errors import SourceUnavailable
from cbtfs.source import libnbd
from cbtfs.source.nbd_uri import refuse_unverified, without_secrets

log = logging.getLogger(__name__)

ALLOCATION: Final = "base:allocation"
_HOLE, _ZERO = 1, 2
_DIRTY = 1
_REQUEST: Final = 2 << 20
"""Bytes of one read: VMware's servers refuse much larger ones (VDDK Programming Guide, NBD)."""
_STATUS: Final = 1 << 30
"""Bytes that one question for extents covers; the protocol has 32 bits for it."""
MAX_EXPORT_BYTES: Final = 1 << 50
"""A larger export is refused: its extents alone would take a million questions."""
_MAX_MINIMUM: Final = 64 << 10
"""The largest minimum block size that the protocol allows (NBD, "Block size constraints")."""
_MAX_EXTENTS: Final = 1 << 21
"""Pieces of a disk that are kept in memory: about 400 MB."""
_MAX_PER_ANSWER: Final = 1 << 16
"""Pieces of one answer that are looked at; the rest is asked for again."""
_MAX_SPARE_QUESTIONS: Final = 1 << 16
"""Questions for extents beyond one for each GiB: qemu-nbd describes 2^17 pieces in one answer."""
_IN_FLIGHT: Final = 4
_POLL_MS: Final = 1000
_FURTHER_SECONDS: Final = 3.0
"""For a connection beside those there are: qemu-nbd leaves the one after its --shared waiting."""


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """How hard to press a server."""

    connections: int = 4
    seconds: float = 60.0
    """For a connection to be made, or for any progress of a request."""
    pauses: tuple[float, ...] = (0.5, 2.0)
    """Before each new try after a lost connection."""


class Status(NamedTuple):
    """A piece of a disk and the flags that a metadata context has for it."""

    extent: Extent
    flags: int


def statuses_of(pairs: Iterable[tuple[int, int]], start: int, length: int) -> list[Status]:
    """What a server's pairs of length and flags say of [start, start + length), or of its head.

    A length that reaches beyond is cut, one of nothing is passed over.
    """
    found, at = [], start
    for count, flags in pairs:
        count = min(count, start + length - at)
        if count > 0:
            found.append(Status(Extent(at, count), flags))
            at += count
    return found


class TooManyExtents(Exception):
    """The server describes the disk in more pieces than are kept; the text says how many."""


class _Lost(Exception):
    """The connection is no more; the text says why."""


class NbdExport:
    """One export, open for reading by several threads."""

    def __init__(
        self, uri: str, contexts: Sequence[str] = (ALLOCATION,), limits: NbdLimits | None = None
    ) -> None:
        """SourceUnavailable without such an export, UsageError if TLS would verify no server."""
        self.name = without_secrets(uri)
        refuse_unverified(uri)
        self._uri = uri
        self._contexts = tuple(contexts)
        self._limits = limits or NbdLimits()
        self._free = threading.Condition()
        self._idle: list[_Connection] = []
        self._open = 0
        self._most = 1
        self._is_closed = False
        self.size = 0
        with self._connection() as first:
            self._refuse_nonsense(first)
            self.size = first.size
            self._minimum = first.minimum
            self._request = max(first.minimum, min(_REQUEST, first.maximum))
            self.contexts = frozenset(c for c in self._contexts if first.has_context(c))
            self._most = self._limits.connections if first.is_shared else 1

    def _refuse_nonsense(self, first: "_Connection") -> None:
        if first.size > MAX_EXPORT_BYTES:
            raise SourceUnavailable(
                f"{self.name} has {first.size} bytes, at most {MAX_EXPORT_BYTES} are supported: "
                "name the right export"
            )
        if first.minimum > _MAX_MINIMUM:
            raise SourceUnavailable(
                f"{self.name} demands requests of {first.minimum} bytes, where the NBD protocol "
                f"allows {_MAX_MINIMUM}: use another server"
            )

    def read(self, extent: Extent) -> memoryview:
        """Exactly those bytes, or SourceUnavailable."""
        start = extent.start // self._minimum * self._minimum
        end = min(-(-extent.end // self._minimum) * self._minimum, self.size)
        if extent.end > end:
            raise SourceUnavailable(f"{self.name} ends at {self.size}, {extent.end} wanted")
        for pause in (*self._limits.pauses, None):
            try:
                with self._connection() as connection:
                    data = connection.read(start, end - start, self._request)
                return data[extent.start - start : extent.end - start]
            except _Lost as exc:
                self._try_again(exc, pause)
        raise AssertionError("the last pause is None")

    def statuses(self, context: str) -> list[Status]:
        """What a metadata context says of the whole disk: ascending, without gaps.

        Raises:
            TooManyExtents: it would take too much memory or time to hear it all.
        """
        found: list[Status] = []
        at, questions = 0, 0
        while at < self.size:
            questions += 1
            found += self._statuses_from(context, at)
            at = found[-1].extent.end
            if len(found) > _MAX_EXTENTS or questions > _MAX_SPARE_QUESTIONS + at // _STATUS:
                raise TooManyExtents(
                    f"{self.name} describes {at} bytes in {len(found)} extents and {questions} "
                    "answers, which is too many"
                )
        return found

    def _statuses_from(self, context: str, at: int) -> list[Status]:
        for pause in (*self._limits.pauses, None):
            try:
                with self._connection() as connection:
                    return connection.statuses(context, at, min(self.size - at, _STATUS))
            except _Lost as exc:
                self._try_again(exc, pause)
        raise AssertionError("the last pause is None")

    def allocated(self) -> list[Extent]:
        """Extents outside of which the export says of itself: a hole, and reads as zeros.

        A hole that is not also zero is no zeros; without base:allocation nothing is known.
        """
        if not self.size:
            return []
        if ALLOCATION not in self.contexts:
            return [Extent(0, self.size)]
        known = _HOLE | _ZERO
        try:
            statuses = self.statuses(ALLOCATION)
        except TooManyExtents as exc:
            log.warning("%s: the whole disk is read", exc)
            return [Extent(0, self.size)]
        zeros = [each.extent for each in statuses if each.flags & known == known]
        return list(complement(zeros, self.size))

    def dirty(self, context: str) -> list[Extent]:
        """What a qemu:dirty-bitmap: context marks as written; TooManyExtents."""
        return [each.extent for each in self.statuses(context) if each.flags & _DIRTY]

    def _try_again(self, why: _Lost, pause: float | None) -> None:
        if pause is None:
            raise SourceUnavailable(f"{self.name}: {why}") from why
        time.sleep(pause)

    @contextmanager
    def _connection(self) -> "Iterator[_Connection]":
        """A connection for one request; after any failure it is not used again."""
        connection = self._take()
        is_good = False
        try:
            if self.size and connection.size != self.size:
                raise SourceUnavailable(f"{self.name} had {self.size} bytes and has others now")
            yield connection
            is_good = True
        finally:
            with self._free:
                if is_good and not self._is_closed:
                    self._idle.append(connection)
                else:
                    self._open -= 1
                    connection.close()
                self._free.notify()

    def _take(self) -> "_Connection":
        """An idle connection, or another one where the server grants it."""
        while True:
            with self._free:
                self._free.wait_for(
                    lambda: self._idle or self._open < self._most or self._is_closed
                )
                if self._is_closed:
                    raise SourceUnavailable(f"{self.name} is closed")
                if self._idle:
                    return self._idle.pop()
                self._open += 1
                wait = self._limits.seconds
                if self._open > 1:
                    wait = min(wait, _FURTHER_SECONDS)
            try:
                return _Connection(self._uri, self.name, self._contexts, wait, self._limits.seconds)
            except BaseException as exc:
                with self._free:
                    self._open -= 1
                    self._free.notify()
                    if not isinstance(exc, SourceUnavailable) or not self._open:
                        raise
                    self._most = self._open  # it grants no more than these

    def close(self) -> None:
        with self._free:
            self._is_closed = True
            for connection in self._idle:
                connection.close()
            self._open -= len(self._idle)
            self._idle.clear()
            self._free.notify_all()


class _Connection:
    """One libnbd handle; one thread at a time uses it."""

    def __init__(
        self, uri: str, name: str, contexts: Sequence[str], connect_seconds: float, seconds: float
    ) -> None:
        """*connect_seconds* limit the connection, *seconds* each request after that."""
        self._lib = libnbd.library()
        self._name = name
        self._seconds = seconds
        self._contexts = contexts
        self._handle = self._lib.nbd_create()
        if not self._handle:
            raise SourceUnavailable(f"{name}: {libnbd.last_error()[0]}")
        try:
            self._connect(uri, connect_seconds)
            self.size = self._sure(self._lib.nbd_get_size(self._handle))
            self.minimum = self._block_size(libnbd.SIZE_MINIMUM) or 1
            self.maximum = self._block_size(libnbd.SIZE_MAXIMUM) or _REQUEST
            self.is_shared = self._lib.nbd_can_multi_conn(self._handle) == 1
        except BaseException:
            self.close()
            raise

    def _connect(self, uri: str, connect_seconds: float) -> None:
        self._sure(self._lib.nbd_set_uri_allow_local_file(self._handle, True))
        for context in self._contexts:
            self._sure(self._lib.nbd_add_meta_context(self._handle, context.encode()))
        try:
            self._ask(self._lib.nbd_aio_connect_uri(self._handle, uri.encode()))
            due = time.monotonic() + connect_seconds
            while self._lib.nbd_aio_is_connecting(self._handle):
                self._poll(due, connect_seconds)
            if not self._lib.nbd_aio_is_ready(self._handle):
                raise _Lost(libnbd.last_error()[0])
        except _Lost as exc:
            raise SourceUnavailable(f"cannot open {self._name}: {exc}") from exc

    def _block_size(self, which: int) -> int:
        return max(int(self._lib.nbd_get_block_size(self._handle, which)), 0)

    def has_context(self, context: str) -> bool:
        return bool(self._lib.nbd_can_meta_context(self._handle, context.encode()) == 1)

    def read(self, start: int, length: int, request: int) -> memoryview:
        """Bytes, by several requests at once. After a failure the handle must be closed first:
        the answers to what is still in flight go into the buffer."""
        buffer = bytearray(length)
        whole = (ctypes.c_char * length).from_buffer(buffer)
        base = ctypes.addressof(whole)
        waiting: list[int] = []
        at = 0
        try:
            while at < length or waiting:
                while at < length and len(waiting) < _IN_FLIGHT:
                    count = min(request, length - at)
                    waiting.append(
                        self._ask(
                            self._lib.nbd_aio_pread(
                                self._handle,
                                base + at,
                                count,
                                start + at,
                                libnbd.CompletionCallback(),
                                0,
                            )
                        )
                    )
                    at += count
                waiting = self._finish_some(waiting, f"read at {start}")
        except BaseException:
            self.close()
            raise
        return memoryview(buffer)

    def statuses(self, context: str, start: int, length: int) -> list[Status]:
        """What the context says from *start* on, of *length* bytes or less."""
        entries: list[tuple[int, int]] = []

        def take(_: Any, name: bytes, at: int, pairs: Any, count: int, error: Any) -> int:
            if name.decode("utf-8", "replace") == context and at == start:
                count = min(count, 2 * _MAX_PER_ANSWER)
                entries.extend((pairs[i], pairs[i + 1]) for i in range(0, count - 1, 2))
            return 0

        function = libnbd.EXTENT_FUNCTION(take)
        try:
            waiting = [
                self._ask(
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
                waiting = self._finish_some(waiting, f"ask for extents at {start}")
        except BaseException:
            self.close()
            raise
        found = statuses_of(entries, start, length)
        if not found:
            raise SourceUnavailable(f"{self._name} says nothing of {context} at {start}")
        return found

    def _finish_some(self, cookies: list[int], what: str) -> list[int]:
        """Wait until at least one request is done; those that are not."""
        due = time.monotonic() + self._seconds
        while True:
            left = [cookie for cookie in cookies if not self._is_done(cookie, what)]
            if len(left) < len(cookies):
                return left
            self._poll(due, self._seconds)

    def _is_done(self, cookie: int, what: str) -> bool:
        state = self._lib.nbd_aio_command_completed(self._handle, cookie)
        if state < 0:
            words, number = libnbd.last_error()
            if self._is_lost():
                raise _Lost(words)
            raise SourceUnavailable(f"cannot {what} of {self._name}: {libnbd.error_name(number)}")
        return bool(state)

    def _poll(self, due: float, seconds: float) -> None:
        left = due - time.monotonic()
        if left <= 0:
            raise _Lost(f"no answer in {seconds:g} s")
        wait = min(_POLL_MS, int(left * 1000) + 1)
        if self._lib.nbd_poll(self._handle, wait) < 0:
            raise _Lost(libnbd.last_error()[0])

    def _ask(self, result: int) -> int:
        if result < 0:
            raise _Lost(libnbd.last_error()[0])
        return result

    def _is_lost(self) -> bool:
        lib = self._lib
        return bool(lib.nbd_aio_is_dead(self._handle) or lib.nbd_aio_is_closed(self._handle))

    def _sure(self, result: int) -> int:
        if result < 0:
            raise SourceUnavailable(f"{self._name}: {libnbd.last_error()[0]}")
        return int(result)

    def close(self) -> None:
        if self._handle:
            self._lib.nbd_close(self._handle)
            self._handle = None
