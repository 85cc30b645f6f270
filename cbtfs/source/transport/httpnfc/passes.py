"""Serve reads of any extent of a disk from a stream that can only be read from its start.

Reads that go forward are served by one pass over the stream. The grains that passed last are kept,
because concurrent readers ask slightly out of order. A read behind them starts another pass.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.httpnfc.vmdk import Grain, StreamCorrupt, StreamDecoder, unpack

log = logging.getLogger(__name__)

KEPT_BYTES: Final = 96 << 20
"""Size of the grains, decompressed, that stay in memory in compressed form after they passed: the
batches that a capture with 16 threads has in flight."""
_PIECE: Final = 4 << 20
"""Maximum length of one request: bounds the memory of a waiting reader."""


class Stream(Protocol):
    """The bytes of an exported file."""

    def read(self) -> bytes:
        """Return more bytes, or none at the end; OSError or HTTPException if that fails."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(eq=False, slots=True)
class _Request:
    """An extent that a thread waits for."""

    extent: Extent
    number: int
    """The pass that serves it."""
    grains: list[Grain] = field(default_factory=list)
    is_done: bool = False

    def add(self, grain: Grain, grain_bytes: int) -> None:
        if grain.start < self.extent.end and grain.start + grain_bytes > self.extent.start:
            self.grains.append(grain)


class StreamedDisk:
    """A disk of *size* bytes. Several threads may call read() at once."""

    def __init__(
        self,
        size: int,
        open_stream: Callable[[], Stream],
        pauses: tuple[float, ...],
        kept_bytes: int = KEPT_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*open_stream* starts the file; *pauses* has one pause in seconds for each retry.

        *sleep* waits before a retry, and raises Stopped when the run is cancelled.
        """
        self.size = size
        self._open = open_stream
        self._pauses = list(pauses)
        self._limit = kept_bytes
        self._sleep = sleep
        self._changed = threading.Condition()
        self._requests: list[_Request] = []
        self._is_pulling = False
        self._error: SourceUnavailable | None = None
        self._stream: Stream | None = None
        self._decoder = StreamDecoder(size)
        self._is_at_end = False
        self._pass = 0
        self._floor = 0
        """Grains from here on to the position are kept."""
        self._kept: deque[Grain] = deque()
        self._grain_bytes = 0
        self.position = 0
        """Bytes of the disk that passed. The last one passes when the end of the file agrees."""

    @property
    def is_whole(self) -> bool:
        """The present pass has reached the verified end of the file."""
        return self._is_at_end and self._error is None

    def read(self, extent: Extent) -> bytes:
        """Return exactly extent.length bytes; SourceUnavailable if that is impossible."""
        if extent.end > self.size:
            raise SourceUnavailable(f"read of {extent} beyond the end of the disk, {self.size}")
        content = bytearray(extent.length)
        for at in range(extent.start, extent.end, _PIECE):
            piece = Extent(at, min(_PIECE, extent.end - at))
            self._fill(piece, memoryview(content)[at - extent.start :][: piece.length])
        return bytes(content)

    def _fill(self, extent: Extent, target: memoryview) -> None:
        request = self._wait(extent)
        for grain in request.grains:
            data = unpack(grain, self._grain_bytes, self.size)
            start = max(grain.start, extent.start)
            end = min(grain.start + len(data), extent.end)
            target[start - extent.start : end - extent.start] = data[
                start - grain.start : end - grain.start
            ]

    def _wait(self, extent: Extent) -> _Request:
        """Return the request for *extent* after all its grains have passed."""
        with self._changed:
            self._raise_error()
            request = self._new_request(extent)
            self._requests.append(request)
            try:
                while not request.is_done:
                    self._raise_error()
                    if self._is_pulling:
                        self._changed.wait()
                    else:
                        self._pull()
                        self._settle()
            finally:
                self._requests.remove(request)
        return request

    def _raise_error(self) -> None:
        if self._error is not None:
            raise SourceUnavailable(str(self._error)) from self._error

    def _new_request(self, extent: Extent) -> _Request:
        is_behind = extent.start < self._floor
        request = _Request(extent, self._pass + is_behind)
        if not is_behind:
            for grain in self._kept:
                request.add(grain, self._grain_bytes)
            request.is_done = extent.end <= self.position
        return request

    def _settle(self) -> None:
        for request in self._requests:
            if request.number == self._pass and request.extent.end <= self.position:
                request.is_done = True
        self._changed.notify_all()

    def _pull(self) -> None:
        """Process the next bytes of the stream; start another pass if no request needs this one."""
        if all(request.number != self._pass for request in self._requests if not request.is_done):
            self._restart()
        self._is_pulling = True
        self._changed.release()
        error: Exception | None = None
        grains: list[Grain] = []
        try:
            grains = self._next_grains()
        except (OSError, HTTPException, SourceUnavailable) as exc:
            error = exc
            self._close_stream()
        finally:
            self._changed.acquire()
            self._is_pulling = False
            self._changed.notify_all()
        if error is None:
            self._add(grains)
        elif isinstance(error, StreamCorrupt) or not self._pauses:
            self._error = SourceUnavailable(str(error) or type(error).__name__)
        else:
            self._retry(error)

    def _next_grains(self) -> list[Grain]:
        if self._stream is None:
            self._stream = self._open()
        data = self._stream.read()
        if not data:
            if not self._decoder.is_complete:
                raise ConnectionResetError("the exported file ends too early")
            self._is_at_end = True
            return []
        return self._decoder.feed(data)

    def _add(self, grains: list[Grain]) -> None:
        grain_bytes = self._grain_bytes = self._decoder.grain_bytes or self._grain_bytes
        for grain in grains:
            for request in self._requests:
                if request.number == self._pass:
                    request.add(grain, grain_bytes)
            self._kept.append(grain)
            self.position = min(grain.start + grain_bytes, self.size - 1)
        if self._is_at_end:
            self.position = self.size
        while len(self._kept) * grain_bytes > self._limit:
            self._floor = self._kept.popleft().start + grain_bytes

    def _retry(self, error: Exception) -> None:
        pause = self._pauses.pop(0)
        log.info("the export of a disk starts again in %s s: %s", pause, error)
        self._is_pulling = True
        self._changed.release()
        try:
            self._sleep(pause)
        finally:
            self._changed.acquire()
            self._is_pulling = False
        self._restart()

    def _restart(self) -> None:
        """Begin another pass, which serves all requests that are not done."""
        self._close_stream()
        self._decoder = StreamDecoder(self.size)
        self._is_at_end = False
        self._pass += 1
        self._floor = self.position = 0
        self._kept.clear()
        for request in self._requests:
            if not request.is_done:
                request.number, request.grains = self._pass, []

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Close the connection."""
        self._close_stream()
