"""One disk that a host has open: requests of several threads, answers by one receiving thread."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.transport.nfc import classic
from cbtfs.source.transport.nfc.channel import Channel
from cbtfs.source.transport.nfc.codec import (
    AioCodec,
    AllocatedChunks,
    DdbValue,
    Event,
    FileOpened,
    Refused,
)
from cbtfs.source.transport.nfc.failures import Abandoned, ConnectionLost, NfcRefused
from cbtfs.source.transport.nfc.host import HostFacts, Introduced
from cbtfs.source.transport.nfc.wire import Aio, Compression

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 1.0
"""Interval at which the receiving thread checks for missing answers."""

Request = Callable[[AioCodec], tuple[int, bytes]]
"""Adds a request to the codec; returns its number and its bytes."""


class Pending:
    """A request in flight."""

    def __init__(self, kind: Aio, on_end: Callable[[], None] | None) -> None:
        self.kind = kind
        self._on_end = on_end
        self._ended = threading.Event()
        self._event: Event | None = None
        self._error: SourceUnavailable | None = None

    def settle(self, event: Event | None, error: SourceUnavailable | None) -> None:
        """Set the result. Called once, by the session."""
        self._event, self._error = event, error
        if self._on_end is not None:
            self._on_end()
        self._ended.set()

    @property
    def is_done(self) -> bool:
        """The request succeeded."""
        return self._ended.is_set() and self._error is None

    def wait(self) -> Event:
        """Return the answer; raise the failure of the session.

        The receiving thread ends every wait: after the answer or after its timeout.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._event is not None
        return self._event


class _Refusal(NamedTuple):
    """A request that the host refused, which ends the session."""

    pending: Pending
    error: NfcRefused


class NfcSession:
    """An AIO session with one open disk, read-only. Safe to use from several threads.

    After any failure the session has ended, and every request in flight fails. Nothing that comes
    later is written into a buffer.
    """

    def __init__(
        self,
        introduced: Introduced,
        path: str,
        answer_seconds: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Switch to AIO and open the disk at the datastore *path*.

        *check* is called about once a second while an answer is awaited; its error ends the
        session.

        Raises:
            NfcRefused: the host refuses the session or the disk.
            ConnectionLost, NfcProtocolError: it does not answer, or not in NFC.
        """
        self.facts: HostFacts = introduced.facts
        self._channel: Channel = introduced.channel
        self._seconds = answer_seconds
        self._check = check
        self._codec = AioCodec()
        self._lock = threading.Lock()
        self._order = threading.Lock()
        """Held while a request is sent: requests are sent in the order of their numbers."""
        self._pending: dict[int, Pending] = {}
        self._progress = time.monotonic()
        """Time of the last complete answer, or of the first request after none was in flight."""
        self._error: SourceUnavailable | None = None
        self._receiver: threading.Thread | None = None
        try:
            introduced.switch()
            tick = min(_TICK_SECONDS, answer_seconds / 4)
            self._channel.become_concurrent(tick, answer_seconds)
            self._receiver = threading.Thread(
                target=self._receive, name=f"nfc {self._channel.peer}", daemon=True
            )
            self._receiver.start()
            self.start(Aio.OPEN_SESSION, AioCodec.open_session).wait()
            self.start(Aio.SET_SOCK_OPTS, AioCodec.set_socket_options).wait()
            self.start(Aio.SET_RES_POOL, AioCodec.set_resource_pool).wait()
            opened = self.start(Aio.OPEN_FILE, lambda codec: codec.open_file(path)).wait()
        except BaseException:
            self.drop()
            raise
        assert isinstance(opened, FileOpened)
        self._handle = opened.handle
        self.capacity = opened.capacity
        """Bytes."""

    @property
    def is_ended(self) -> bool:
        return self._error is not None

    # requests

    def start(
        self, kind: Aio, request: Request, on_end: Callable[[], None] | None = None
    ) -> Pending:
        """Send a request; *on_end* is called once, after the answer or a failure.

        If this raises, *on_end* is not called.
        """
        with self._order:
            with self._lock:
                if self._error is not None:
                    raise Abandoned(f"the connection has ended: {self._error}") from self._error
                number, data = request(self._codec)
                if not self._pending:
                    self._progress = time.monotonic()
                pending = self._pending[number] = Pending(kind, on_end)
            try:
                self._channel.send(data)
            except SourceUnavailable as exc:
                self._fail(exc)  # settles the request
        return pending

    def read(
        self,
        offset: int,
        into: memoryview,
        compression: Compression,
        on_end: Callable[[], None] | None = None,
    ) -> Pending:
        """Start to read len(into) bytes at *offset*; whole sectors, at most 1 MiB."""
        return self.start(
            Aio.IO, lambda codec: codec.read(self._handle, offset, into, compression), on_end
        )

    def query_allocated(self, first: int, count: int) -> bytes:
        """Return the bitmap of *count* chunks of 64 KiB from chunk *first* on."""
        answer = self.start(
            Aio.QUERY_ALLOCATED, lambda codec: codec.query_allocated(self._handle, first, count)
        ).wait()
        assert isinstance(answer, AllocatedChunks)
        return answer.bitmap

    def database(self, key: str) -> str | None:
        """Return a value of the disk's database, such as `uuid`; None if it has no such key."""
        answer = self.start(Aio.DDB_GET, lambda codec: codec.get_ddb(self._handle, key)).wait()
        assert isinstance(answer, DdbValue)
        return answer.value

    # answers

    def _receive(self) -> None:
        """Settle requests until the session ends."""
        error: SourceUnavailable = ConnectionLost(f"{self._channel.peer}: the receiver ended")
        culprit = None
        try:
            while self._error is None and culprit is None:
                culprit = self._settle()
                if culprit is None:
                    if not self._channel.wait():
                        self._check()
                    self._check_progress()
        except SourceUnavailable as exc:
            error = exc
        finally:
            if culprit is not None:
                error = Abandoned("the connection ended, because the host refused another request")
            self._fail(error, culprit)

    def _check_progress(self) -> None:
        with self._lock:
            is_late = bool(self._pending) and time.monotonic() - self._progress > self._seconds
        if is_late:
            raise ConnectionLost(f"{self._channel.peer}: no answer in {self._seconds:g} s")

    def _settle(self) -> "_Refusal | None":
        """Decode the received bytes and settle the requests that they answer.

        Return the request that the host refuses.
        """
        answered: list[tuple[Pending, Event]] = []
        try:
            with self._lock:
                if self._error is None:
                    self._decode(answered)
        finally:
            for pending, event in answered:
                if not isinstance(event, Refused):
                    pending.settle(event, None)
        if answered and isinstance(event := answered[-1][1], Refused):  # the codec has ended
            pending = answered[-1][0]
            return _Refusal(pending, NfcRefused(pending.kind, event.code, event.text))
        return None

    def _decode(self, answered: list[tuple[Pending, Event]]) -> None:
        """Receive straight into the buffers of the requests; add their answers to *answered*.

        Called with the lock: a request that fails meanwhile must not be written to any longer.
        """
        codec, read_into = self._codec, self._channel.read_into
        while not codec.is_ended and (count := read_into(codec.space())):
            event = codec.received(count)
            if event is not None:
                answered.append((self._pending.pop(event.operation), event))
                self._progress = time.monotonic()

    def _fail(self, error: SourceUnavailable, culprit: "_Refusal | None" = None) -> None:
        """End the session with *error*; the request of *culprit* fails with its own."""
        with self._lock:
            is_first, failed = self._error is None, list(self._pending.values())
            self._error = self._error or error
            self._pending = {}
        self._channel.abort()
        if culprit is not None:
            culprit.pending.settle(None, culprit.error)
        for pending in failed:
            pending.settle(None, error if is_first else self._error)

    # end

    def close(self) -> None:
        """Close the disk and the session, each with an answer of the host; log failures."""
        self._check = lambda: None
        try:
            if self._error is None:
                handle = self._handle
                self.start(Aio.CLOSE_FILE, lambda codec: codec.close_file(handle)).wait()
                self.start(Aio.CLOSE_SESSION, AioCodec.close_session).wait()
                self._channel.send(classic.completion())
        except CbtfsError as exc:
            log.info("the disk was not closed properly: %s", exc)
        finally:
            self.drop()

    def drop(self) -> None:
        """End the connection, if it has not ended, and free its resources."""
        self._fail(ConnectionLost(f"the connection to {self._channel.peer} was closed"))
        if self._receiver is not None:
            self._receiver.join()
        self._channel.close()
