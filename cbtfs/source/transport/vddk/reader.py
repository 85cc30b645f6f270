"""Read one disk through VMware's library: aligned requests, smaller ones if a host lacks memory."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import copy_into
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.nfc_buffers import NfcBuffers
from cbtfs.source.transport.vddk import abi, frame
from cbtfs.source.transport.vddk.child import IN_FLIGHT
from cbtfs.source.transport.vddk.login import TRANSIENT, denied, open_disk
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess, VixFailed

log = logging.getLogger(__name__)

_REQUEST: Final = 2048
"""Maximum request in sectors: 1 MiB, one NFC buffer (VDDK Programming Guide, NBD)."""
_SMALLEST: Final = 128
"""Minimum request in sectors; the read fails if a host has not even that much memory."""
Result = TypeVar("Result")


class VddkReader:
    """An open disk; after a transient error it is reopened in a new process."""

    def __init__(
        self,
        login: VddkLogin,
        disk: TransportDisk,
        buffers: NfcBuffers | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Open *disk*; raise SourceUnavailable or AccessDenied.

        *buffers* are the NFC buffers of the disk's host.
        """
        self._login = login
        self._buffers = buffers or NfcBuffers()
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        self._disk = disk
        self._sleep = sleep or login.sleep
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._request = _REQUEST
        self._is_closed = False
        self.size = disk.size
        self.mode = "unknown"
        self._retrying(lambda child: None)

    # the process

    def _open(self) -> ChildProcess:
        """Return the process that has the disk open; start one if necessary."""
        with self._lock:
            if self._is_closed:
                raise SourceUnavailable(f"{printable(self._disk.label)} is closed")
            if self._child is None:
                disk = self._disk
                child, sectors, self.mode = open_disk(
                    self._login, disk.vm, disk.snapshot, disk.path
                )
                if sectors * abi.SECTOR != disk.size:
                    child.end()
                    raise SourceUnavailable(
                        f"VMware's library opened a disk of {sectors * abi.SECTOR} bytes instead "
                        f"of {disk.size}: it is another disk"
                    )
                log.info("reading %s by %s", printable(disk.path), printable(self.mode))
                self._child = child
            return self._child

    def _forget(self, child: ChildProcess | None) -> None:
        """End the process; the next call reopens the disk in a new one."""
        with self._lock:
            if child is None or self._child is not child:
                return
            self._child = None
        child.end()

    def _retrying(self, work: Callable[[ChildProcess], Result]) -> Result:
        """Return the result of *work*, which is retried after a transient error."""
        pauses = list(self._login.pauses)
        while True:
            child = None
            try:
                child = self._open()
                return work(child)
            except VixFailed as exc:
                if exc.number not in TRANSIENT or not pauses:
                    with denied():
                        raise
                log.info("%s: %s: retrying", printable(self._disk.label), exc)
                self._forget(child)
                self._sleep(pauses.pop(0))
            except ChildGone:
                with self._lock:
                    was_replaced = child is not None and self._child is not child
                if not was_replaced or self._is_closed:
                    raise

    # DiskReader

    def read(self, extent: Extent) -> memoryview:
        """Return exactly the bytes of *extent*, in a buffer of its own."""
        if extent.end > self.size:
            raise SourceUnavailable(
                f"cannot read up to byte {extent.end}: the disk has {self.size} bytes"
            )
        first, end = extent.start // abi.SECTOR, -(-extent.end // abi.SECTOR)
        data = memoryview(bytearray((end - first) * abi.SECTOR))
        at = first
        while at < end:
            count = min(self._request, end - at)
            piece = self._sectors(at, count)
            if piece is not None:
                start = (at - first) * abi.SECTOR
                data[start : start + len(piece)] = piece
                at += count
        return data[extent.start - first * abi.SECTOR :][: extent.length]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def _read(self, child: ChildProcess, start: int, count: int) -> memoryview:
        """Make one request; it holds a buffer of the host only while the library reads."""
        with self._slots, self._buffers.held(count * abi.SECTOR):
            return child.read(start, count)

    def _sectors(self, start: int, count: int) -> memoryview | None:
        """Return *count* sectors; None if the host lacks memory, after reducing later requests."""
        try:
            return self._retrying(lambda child: self._read(child, start, count))
        except VixFailed as exc:
            what = f"cannot read {printable(self._disk.path)} at sector {start}: {exc}"
            if exc.number != abi.NO_MEMORY or count <= _SMALLEST:
                raise SourceUnavailable(what) from exc
            with self._lock:
                self._request = max(_SMALLEST, min(self._request, count // 2))
            log.info("%s: reducing requests to %d sectors", what, self._request)
            return None
        except ChildGone as exc:
            raise SourceUnavailable(f"cannot read {printable(self._disk.path)}: {exc}") from exc

    def allocated(self) -> Sequence[Extent]:
        """Return the chunks that the library reports as allocated, and any partial last chunk.

        If the library cannot report them or its answer is invalid, the result is the whole disk.
        """
        try:
            return list(coalesce(self._allocated()))
        except VixFailed as exc:
            log.info("%s: reading unallocated blocks, too: %s", printable(self._disk.label), exc)
        except InvalidBlocks as exc:
            log.warning("%s: reading unallocated blocks, too: %s", printable(self._disk.label), exc)
        return list(between(0, self.size))

    def _allocated(self) -> Iterator[Extent]:
        sectors = self.size // abi.SECTOR
        whole = sectors // abi.MIN_CHUNK_SECTORS
        for first in range(0, whole, abi.MAX_CHUNKS):
            chunks = min(whole - first, abi.MAX_CHUNKS)
            start, count = first * abi.MIN_CHUNK_SECTORS, chunks * abi.MIN_CHUNK_SECTORS
            answer = self._retrying(
                lambda child, start=start, count=count: child.call(  # type: ignore[misc]
                    "allocated", start=start, count=count, chunk=abi.MIN_CHUNK_SECTORS
                )
            )
            yield from checked_blocks(answer.payload, start, count)
        yield from between(whole * abi.MIN_CHUNK_SECTORS * abi.SECTOR, self.size)

    def close(self) -> None:
        """Close the disk; log errors instead of raising them, because all bytes were read."""
        with self._lock:
            child, self._child, self._is_closed = self._child, None, True
        if child is not None:
            try:
                child.close()
            except ChildGone as exc:
                log.info("cannot close %s: %s", printable(self._disk.label), exc)
            except SourceUnavailable as exc:
                log.warning("cannot close %s: %s", printable(self._disk.label), exc)


class InvalidBlocks(Exception):
    """Raised when a list of allocated blocks is malformed."""


def checked_blocks(payload: memoryview, start: int, count: int) -> Iterator[Extent]:
    """Yield the allocated blocks in [start, start + count) as extents in bytes.

    *payload* has pairs of start and length in sectors; InvalidBlocks if they are not ascending,
    disjoint and within the range.
    """
    if len(payload) % frame.RANGE.size:
        raise InvalidBlocks("the list of allocated blocks is truncated")
    at = start
    for first, length in frame.RANGE.iter_unpack(payload):
        if first < at or not length or first + length > start + count:
            raise InvalidBlocks(f"invalid block of {length} sectors at {first}, after {at}")
        at = first + length
        yield Extent(first * abi.SECTOR, length * abi.SECTOR)
