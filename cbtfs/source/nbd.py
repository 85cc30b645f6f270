"""An NBD client based on libnbd: size, extents and bytes of one export.

A connection has several requests in flight, and there are several connections if the server allows
them. An error from the server is final; a lost connection is reopened.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cbtfs.core.extent import Extent, complement
from cbtfs.errors import SourceUnavailable
from cbtfs.source.nbd_connection import (
    REQUEST_BYTES,
    ConnectionLost,
    NbdConnection,
    Status,
)
from cbtfs.source.nbd_uri import refuse_unverified, without_secrets

log = logging.getLogger(__name__)

ALLOCATION: Final = "base:allocation"
_HOLE, _ZERO = 1, 2
_DIRTY = 1
_STATUS: Final = 1 << 30
"""Maximum length of one block status request; the field in the protocol has 32 bits."""
MAX_EXPORT_BYTES: Final = 1 << 50
"""Maximum size of an export; the extents of a larger one take a million requests."""
_MAX_MINIMUM: Final = 64 << 10
"""The largest minimum block size that the protocol allows (NBD, "Block size constraints")."""
_ZERO_BYTES: Final = 64 << 20
"""Maximum length of one request to zero, which the server answers within the timeout."""
_MAX_EXTENTS: Final = 1 << 21
"""Maximum number of extents of a disk, about 400 MB of memory."""
_MAX_SPARE_REQUESTS: Final = 1 << 16
"""Maximum number of block status requests beyond one per GiB; qemu-nbd returns 2^17 extents in one
answer."""
_FURTHER_SECONDS: Final = 3.0
"""Timeout of each connection after the first: qemu-nbd does not answer more than --shared."""


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """Number of connections, timeout and retries."""

    connections: int = 4
    seconds: float = 60.0
    """Timeout for a new connection, and for any progress of a request."""
    pauses: tuple[float, ...] = (0.5, 2.0)
    """Seconds before each retry after a lost connection."""
    sleep: Callable[[float], None] = time.sleep
    """Wait before a retry; raise Stopped when the run is cancelled."""


class TooManyExtents(Exception):
    """Raised when the server describes the disk in too many extents; the text has the number."""


class NbdExport:
    """One export, open for reading and writing by several threads.

    Only reads are repeated after a lost connection: a server that was restarted may have lost
    writes that were not flushed.
    """

    def __init__(
        self, uri: str, contexts: Sequence[str] = (ALLOCATION,), limits: NbdLimits | None = None
    ) -> None:
        """Open the export; SourceUnavailable if that fails, UsageError for unverified TLS."""
        self.name = without_secrets(uri)
        refuse_unverified(uri)
        self._uri = uri
        self._contexts = tuple(contexts)
        self._limits = limits or NbdLimits()
        self._free = threading.Condition()
        self._idle: list[NbdConnection] = []
        self._open = 0
        self._max_open = 1
        self._is_closed = False
        self.size = 0
        with self._connection() as first:
            self._check_sizes(first)
            self.size = first.size
            self._minimum = first.minimum
            self._request = max(first.minimum, min(REQUEST_BYTES, first.maximum))
            self.contexts = frozenset(c for c in self._contexts if first.has_context(c))
            self._max_open = self._limits.connections if first.is_shared else 1
            self.is_read_only = first.is_read_only
            self.can_zero = first.can_zero
            self.can_flush = first.can_flush

    def _check_sizes(self, first: NbdConnection) -> None:
        if first.size > MAX_EXPORT_BYTES:
            raise SourceUnavailable(
                f"{self.name} has {first.size} bytes, and at most {MAX_EXPORT_BYTES} are "
                "supported: check the name of the export"
            )
        if first.minimum > _MAX_MINIMUM:
            raise SourceUnavailable(
                f"{self.name} has a minimum block size of {first.minimum} bytes, and the NBD "
                f"protocol allows {_MAX_MINIMUM}: use another server"
            )

    def read(self, extent: Extent) -> memoryview:
        """Return exactly the bytes of *extent*; raise SourceUnavailable if that is impossible."""
        start = extent.start // self._minimum * self._minimum
        end = min(-(-extent.end // self._minimum) * self._minimum, self.size)
        if extent.end > end:
            raise SourceUnavailable(
                f"cannot read up to byte {extent.end}: {self.name} has {self.size} bytes"
            )
        for pause in (*self._limits.pauses, None):
            try:
                with self._connection() as connection:
                    data = connection.read(start, end - start, self._request)
                return data[extent.start - start : extent.end - start]
            except ConnectionLost as exc:
                self._wait_before_retry(exc, pause)
        raise AssertionError("the last pause is None")

    @property
    def unit(self) -> int:
        """Alignment of writes in bytes: a power of two, at most 64 KiB."""
        return self._minimum

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write *data* at *start*, in whole units; raise SourceUnavailable if that fails."""
        with self._writing() as connection:
            connection.write(start, data, self._request)

    def zero(self, extent: Extent) -> None:
        """Make *extent*, in whole units, read as zeros; requires *can_zero*."""
        with self._writing() as connection:
            connection.zero(extent.start, extent.length, _ZERO_BYTES)

    def flush(self) -> None:
        """Flush all writes to stable storage; requires *can_flush*."""
        with self._writing() as connection:
            connection.flush()

    @contextmanager
    def _writing(self) -> Iterator[NbdConnection]:
        try:
            with self._connection() as connection:
                yield connection
        except ConnectionLost as exc:
            raise SourceUnavailable(f"{self.name}: {exc}") from exc

    def statuses(self, context: str) -> list[Status]:
        """Return the extents of the whole disk with their flags: ascending, without gaps.

        Raises:
            TooManyExtents: the extents exceed the limits of memory or time.
        """
        statuses: list[Status] = []
        at, requests = 0, 0
        while at < self.size:
            requests += 1
            statuses += self._statuses_from(context, at)
            at = statuses[-1].extent.end
            if len(statuses) > _MAX_EXTENTS or requests > _MAX_SPARE_REQUESTS + at // _STATUS:
                raise TooManyExtents(
                    f"{self.name} describes {at} bytes in {len(statuses)} extents and {requests} "
                    "answers, which is too many"
                )
        return statuses

    def _statuses_from(self, context: str, at: int) -> list[Status]:
        for pause in (*self._limits.pauses, None):
            try:
                with self._connection() as connection:
                    return connection.statuses(context, at, min(self.size - at, _STATUS))
            except ConnectionLost as exc:
                self._wait_before_retry(exc, pause)
        raise AssertionError("the last pause is None")

    def allocated(self) -> list[Extent]:
        """Return the extents outside of which the export reports holes that read as zeros.

        A hole without the zero flag counts as allocated. Without base:allocation, or with too many
        extents, the whole disk does.
        """
        if not self.size:
            return []
        if ALLOCATION not in self.contexts:
            return [Extent(0, self.size)]
        known = _HOLE | _ZERO
        try:
            statuses = self.statuses(ALLOCATION)
        except TooManyExtents as exc:
            log.warning("%s: reading the whole disk", exc)
            return [Extent(0, self.size)]
        zeros = [status.extent for status in statuses if status.flags & known == known]
        return list(complement(zeros, self.size))

    def dirty(self, context: str) -> list[Extent]:
        """Return the dirty extents of a qemu:dirty-bitmap: context; raise TooManyExtents."""
        return [status.extent for status in self.statuses(context) if status.flags & _DIRTY]

    def _wait_before_retry(self, why: ConnectionLost, pause: float | None) -> None:
        if pause is None:
            raise SourceUnavailable(f"{self.name}: {why}") from why
        log.info("%s: %s: retrying", self.name, why)
        self._limits.sleep(pause)

    @contextmanager
    def _connection(self) -> Iterator[NbdConnection]:
        """Lend a connection for one request; close it after an error."""
        connection = self._take()
        is_intact = False
        try:
            if self.size and connection.size != self.size:
                raise SourceUnavailable(
                    f"the size of {self.name} changed from {self.size} to {connection.size} bytes"
                )
            yield connection
            is_intact = True
        finally:
            with self._free:
                if is_intact and not self._is_closed:
                    self._idle.append(connection)
                else:
                    self._open -= 1
                    connection.close()
                self._free.notify()

    def _take(self) -> NbdConnection:
        """Return an idle connection, or a new one if the server accepts more."""
        while True:
            with self._free:
                self._free.wait_for(
                    lambda: self._idle or self._open < self._max_open or self._is_closed
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
                return NbdConnection(
                    self._uri, self.name, self._contexts, wait, self._limits.seconds
                )
            except BaseException as exc:
                with self._free:
                    self._open -= 1
                    self._free.notify()
                    if not isinstance(exc, SourceUnavailable) or not self._open:
                        raise
                    self._max_open = self._open  # the server accepts no more

    def close(self) -> None:
        with self._free:
            self._is_closed = True
            for connection in self._idle:
                connection.close()
            self._open -= len(self._idle)
            self._idle.clear()
            self._free.notify_all()
