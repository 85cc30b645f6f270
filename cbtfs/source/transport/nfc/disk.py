"""Read one snapshot disk by NFC: several requests at once, and a new ticket after a failure."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped, copy_into
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.nfc.allocation import allocated_extents
from cbtfs.source.transport.nfc.failures import (
    NO_MEMORY,
    Abandoned,
    ConnectionLost,
    NfcRefused,
)
from cbtfs.source.transport.nfc.host import HostFacts, introduce
from cbtfs.source.transport.nfc.lines import AuthdRefused
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.session import NfcSession, Pending
from cbtfs.source.transport.nfc.ticket import TicketOffice
from cbtfs.source.transport.nfc.window import IN_FLIGHT, DiskWindow, HostWindows
from cbtfs.source.transport.nfc.wire import (
    CHUNK,
    MAX_CHUNKS,
    MAX_READ,
    SECTOR,
    Aio,
    NfcProtocolError,
)

log = logging.getLogger(__name__)

_SMALLEST: Final = 64 << 10
"""Minimum request in bytes; the read fails if a host has not even that much memory."""
_NOT_AUTHENTICATED: Final = "530"
"""Reply of the daemon to a ticket that it does not know any longer."""
_ABANDONED: Final = 16
"""Maximum number of immediate retries of a request that failed only because another one did."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class NfcAccess:
    """The context that the disks of a run share: server, options, windows of the hosts."""

    tickets: TicketOffice
    options: NfcOptions
    windows: HostWindows
    pauses: tuple[float, ...]
    """Seconds before each retry after a lost connection or a busy host."""
    on_host: Callable[[HostFacts], None] = lambda facts: None
    """Called with each host that opened a disk."""
    sleep: Callable[[float], None] = time.sleep
    """Wait before a retry; raise Stopped when the run is cancelled."""


@dataclass(slots=True)
class _Retries:
    """The retries that one operation has left."""

    pauses: list[float]
    tickets: int = 1
    """After a refused ticket, which may have expired."""
    violations: int = 1
    """After a violation of the protocol: a host that moves a VM may send an unknown record."""
    abandoned: int = _ABANDONED

    def pause(self, error: SourceUnavailable) -> float | None:
        """Return the seconds before the next retry; None if *error* is final."""
        if isinstance(error, Abandoned) and self.abandoned:
            self.abandoned -= 1
            return 0.0
        if isinstance(error, AuthdRefused):
            if error.code != _NOT_AUTHENTICATED or not self.tickets:
                return None
            self.tickets -= 1
            return 0.0
        if isinstance(error, NfcProtocolError):
            if not self.violations:
                return None
            self.violations -= 1
        elif not isinstance(error, ConnectionLost) and not _is_short_of_memory(error):
            return None
        return self.pauses.pop(0) if self.pauses else None


def _is_short_of_memory(error: SourceUnavailable) -> bool:
    return isinstance(error, NfcRefused) and error.code == NO_MEMORY and not error.is_locked


@dataclass(slots=True)
class _Opened:
    """An open session, with its requests in the window of its host."""

    session: NfcSession
    window: DiskWindow


@dataclass(slots=True)
class _Piece:
    """One request of a read."""

    offset: int
    into: memoryview
    pending: Pending | None = None

    @property
    def is_done(self) -> bool:
        return self.pending is not None and self.pending.is_done


@dataclass(slots=True)
class _Limits:
    """Requests of this disk; reduced after a host ran out of memory."""

    in_flight: int = IN_FLIGHT
    request: int = MAX_READ
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reduce(self, failed: int) -> bool:
        """Halve the number of requests, then their size; return whether that was possible.

        *failed* is the number in flight that failed; another thread may have reduced it since.
        """
        with self.lock:
            if self.in_flight < failed:
                return True
            if self.in_flight > 1:
                self.in_flight //= 2
            elif self.request > _SMALLEST:
                self.request //= 2
            else:
                return False
            return True


class NfcDisk:
    """A reader of one disk (`DiskReader`). Safe to use from several threads.

    After a failure, the disk is reopened with a new ticket on the host that the server names then,
    and only the incomplete requests are repeated. Nothing is returned unless all bytes arrived.
    """

    def __init__(self, access: NfcAccess, disk: TransportDisk) -> None:
        """Open *disk*; raise SourceUnavailable or AccessDenied."""
        self._access = access
        self._disk = disk
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self._limits = _Limits()
        self._is_closed = False
        self._has_database = True
        self._has_allocation = True
        self._uuid: str | None = None
        self.size = disk.size
        self.mode = "nfcssl" if access.options.mode == "ssl" else "nfc"
        self.facts: HostFacts = self._retrying("open", "", lambda opened: opened.session.facts)
        """The host that opened the disk first."""

    # the session

    def _open(self) -> _Opened:
        """Return the open session; open one with a new ticket if necessary."""
        with self._lock:
            if self._is_closed:
                raise SourceUnavailable(f"{printable(self._disk.label)} is closed")
            if self._opened is not None and not self._opened.session.is_ended:
                return self._opened
            if self._opened is not None:
                self._opened.session.drop()
                self._opened = None
            access = self._access
            ticket = access.tickets.ticket(self._disk.vm)
            introduced = introduce(ticket, access.options)
            access.on_host(introduced.facts)
            session = NfcSession(
                introduced,
                self._disk.path,
                access.options.answer_seconds,
                check=lambda: access.sleep(0.0),
            )
            try:
                self._compare(session)
            except BaseException:
                session.drop()
                raise
            self._opened = _Opened(session, access.windows.of(ticket.host).disk())
            log.info("reading %s from %s by NFC", printable(self._disk.path), ticket.host)
            return self._opened

    def _compare(self, session: NfcSession) -> None:
        """Raise SourceUnavailable if the host opened another disk than before."""
        if session.capacity != self.size:
            raise SourceUnavailable(
                f"the host opened a disk of {session.capacity} bytes instead of {self.size}: it is "
                "another disk"
            )
        if not self._has_database:
            return
        try:
            uuid = session.database("uuid")
        except SourceUnavailable as exc:
            self._has_database = False  # the next session does not ask
            raise Abandoned(f"the host does not show the database of the disk: {exc}") from exc
        if self._uuid is not None and uuid != self._uuid:
            raise SourceUnavailable(
                f"the host opened the disk {printable(str(uuid))} instead of "
                f"{printable(self._uuid)}: it is another disk"
            )
        self._uuid = uuid

    def _retrying(
        self,
        what: str,
        where: str,
        work: Callable[[_Opened], Result],
        pauses: Sequence[float] | None = None,
    ) -> Result:
        """Return the result of *work*, which is repeated with a new session after a failure."""
        retries = _Retries(list(self._access.pauses if pauses is None else pauses))
        name = f"cannot {what} {printable(self._disk.path)}{where}"
        while True:
            limit = self._limits.in_flight
            try:
                return work(self._open())
            except Stopped:
                raise
            except SourceUnavailable as exc:
                is_reduced = (
                    isinstance(exc, NfcRefused)
                    and exc.kind is Aio.IO
                    and _is_short_of_memory(exc)
                    and self._limits.reduce(limit)
                )
                pause = 0.0 if is_reduced else retries.pause(exc)
                if pause is None or self._is_closed:
                    raise SourceUnavailable(f"{name}: {exc}") from exc
                log.info("%s: %s: retrying", name, exc)
            self._access.sleep(pause)

    # DiskReader

    def read(self, extent: Extent) -> memoryview:
        """Return exactly the bytes of *extent*, in a buffer of its own."""
        self._check(extent)
        first = extent.start // SECTOR * SECTOR
        end = -(-extent.end // SECTOR) * SECTOR
        data = memoryview(bytearray(end - first))
        self._fill(first, data)
        return data[extent.start - first :][: extent.length]

    def _check(self, extent: Extent) -> None:
        if extent.end > self.size:
            raise SourceUnavailable(
                f"cannot read up to byte {extent.end}: the disk has {self.size} bytes"
            )

    def _fill(self, first: int, data: memoryview) -> None:
        """Fill *data* with the bytes from *first* on, whole sectors."""
        pieces: list[_Piece] = []

        def fill(opened: _Opened) -> None:
            nonlocal pieces
            pieces = list(self._unfinished(pieces) if pieces else self._cut(first, data))
            for piece in pieces:
                self._start(opened, piece)
            for piece in pieces:
                assert piece.pending is not None
                piece.pending.wait()

        if data:
            self._retrying("read", f" at {first}", fill)

    def _cut(self, offset: int, into: memoryview) -> Iterator[_Piece]:
        """Cut a range at multiples of the size of a request."""
        at, size = offset, self._limits.request
        while at < offset + len(into):
            end = min(at // size * size + size, offset + len(into))
            yield _Piece(at, into[at - offset : end - offset])
            at = end

    def _unfinished(self, pieces: Sequence[_Piece]) -> Iterator[_Piece]:
        for piece in pieces:
            if not piece.is_done:
                yield from self._cut(piece.offset, piece.into)

    def _start(self, opened: _Opened, piece: _Piece) -> None:
        window, session = opened.window, opened.session
        window.acquire(self._limits.in_flight)
        try:
            piece.pending = session.read(
                piece.offset, piece.into, self._access.options.compression, window.release
            )
        except BaseException:
            window.release()
            raise

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        is_aligned = extent.start % SECTOR == 0 and extent.length % SECTOR == 0
        if len(parts) == 1 and len(parts[0]) == extent.length and is_aligned:
            self._check(extent)
            self._fill(extent.start, parts[0])  # without a copy
        else:
            copy_into(self.read(extent), parts)

    def allocated(self) -> Sequence[Extent]:
        """Return the chunks of 64 KiB that the host reports as allocated, and a partial last one.

        If the host cannot report them or its answer is invalid, the result is the whole disk.
        """
        if self._has_allocation:
            try:
                return list(coalesce(self._allocated()))
            except Stopped:
                raise
            except SourceUnavailable as exc:
                self._has_allocation = False
                log.info("%s; reading unallocated blocks, too", exc)
        return list(between(0, self.size))

    def _allocated(self) -> Iterator[Extent]:
        whole = self.size // CHUNK
        for first in range(0, whole, MAX_CHUNKS):
            count = min(whole - first, MAX_CHUNKS)
            bitmap = self._retrying(
                "query blocks of",
                "",
                lambda opened, first=first, count=count: opened.session.query_allocated(  # type: ignore[misc]
                    first, count
                ),
                self._access.pauses[:1],
            )
            yield from allocated_extents(bitmap, first, count)
        yield from between(whole * CHUNK, self.size)

    def database(self, key: str) -> str | None:
        """Return a value of the disk's database, such as `uuid`; None without that key."""
        return self._retrying(
            "query", "", lambda opened: opened.session.database(key), self._access.pauses[:1]
        )

    def close(self) -> None:
        """Close the disk on the host; log errors instead of raising them: all bytes were read."""
        with self._lock:
            opened, self._opened, self._is_closed = self._opened, None, True
        if opened is not None:
            try:
                opened.session.close()
            except CbtfsError as exc:
                log.warning("cannot close %s: %s", printable(self._disk.label), exc)
