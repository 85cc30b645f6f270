"""One disk by VMware's library: aligned requests, smaller ones where the host wants them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import copy_into
from cbtfs.source.transport.base import FrozenDisk
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.nfc_buffers import NfcBuffers
from cbtfs.source.transport.vddk import abi, frame
from cbtfs.source.transport.vddk.child import IN_FLIGHT
from cbtfs.source.transport.vddk.login import PASSING, denied, open_disk
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess, VixFailed

log = logging.getLogger(__name__)

_REQUEST: Final = 2048
"""Sectors: 1 MiB, which is a buffer of the NFC service (VDDK Programming Guide, NBD)."""
_SMALLEST: Final = 128
"""Sectors: below that a host that has no memory is given up."""
Result = TypeVar("Result")


class VddkReader:
    """An open disk; after an error that passes, opened anew in a new process."""

    def __init__(
        self,
        login: VddkLogin,
        disk: FrozenDisk,
        buffers: NfcBuffers | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """SourceUnavailable, AccessDenied. *buffers* are those of the disk's host."""
        self._login = login
        self._buffers = buffers or NfcBuffers()
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        self._disk = disk
        self._sleep = sleep
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._request = _REQUEST
        self._is_closed = False
        self.size = disk.size
        self.mode = "unknown"
        self._trying(lambda child: None)

    # the process

    def _open(self) -> ChildProcess:
        """The process that has the disk open, a new one if there is none."""
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
                        f"VMware's library opened {sectors * abi.SECTOR} bytes, the disk has "
                        f"{disk.size}: it is another disk"
                    )
                log.info("%s is read by %s", printable(disk.path), printable(self.mode))
                self._child = child
            return self._child

    def _forget(self, child: ChildProcess | None) -> None:
        """The next call opens the disk anew."""
        with self._lock:
            if child is None or self._child is not child:
                return
            self._child = None
        child.end()

    def _trying(self, work: Callable[[ChildProcess], Result]) -> Result:
        """What *work* finds; after an error that passes it is tried again, and later."""
        pauses = list(self._login.pauses)
        while True:
            child = None
            try:
                child = self._open()
                return work(child)
            except VixFailed as exc:
                if exc.number not in PASSING or not pauses:
                    with denied():
                        raise
                log.info("%s: %s: tried again", printable(self._disk.label), exc)
                self._forget(child)
                self._sleep(pauses.pop(0))
            except ChildGone:
                with self._lock:
                    was_replaced = child is not None and self._child is not child
                if not was_replaced or self._is_closed:
                    raise

    # what a transport promises

    def read(self, extent: Extent) -> memoryview:
        """Exactly those bytes."""
        if extent.end > self.size:
            raise SourceUnavailable(f"the disk ends at {self.size}, {extent.end} wanted")
        first, end = extent.start // abi.SECTOR, -(-extent.end // abi.SECTOR)
        data = memoryview(bytearray((end - first) * abi.SECTOR))
        at = first
        while at < end:
            count = min(self._request, end - at)
            found = self._sectors(at, count)
            if found is not None:
                start = (at - first) * abi.SECTOR
                data[start : start + len(found)] = found
                at += count
        return data[extent.start - first * abi.SECTOR :][: extent.length]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def _read(self, child: ChildProcess, start: int, count: int) -> memoryview:
        """One request; a buffer of the host is held only while the library has it."""
        with self._slots, self._buffers.held(count * abi.SECTOR):
            return child.read(start, count)

    def _sectors(self, start: int, count: int) -> memoryview | None:
        """Some sectors; None if the host wants to be asked for fewer, which it is from now on."""
        try:
            return self._trying(lambda child: self._read(child, start, count))
        except VixFailed as exc:
            what = f"cannot read {printable(self._disk.path)} at sector {start}: {exc}"
            if exc.number != abi.NO_MEMORY or count <= _SMALLEST:
                raise SourceUnavailable(what) from exc
            with self._lock:
                self._request = max(_SMALLEST, min(self._request, count // 2))
            log.info("%s: requests of %d sectors from now on", what, self._request)
            return None
        except ChildGone as exc:
            raise SourceUnavailable(f"cannot read {printable(self._disk.path)}: {exc}") from exc

    def allocated(self) -> Sequence[Extent]:
        """Chunks that the library calls allocated, and the tail that makes no whole chunk.

        The whole disk where it cannot tell, or tells what makes no sense.
        """
        try:
            return list(coalesce(self._allocated()))
        except VixFailed as exc:
            log.info("%s: allocated as a whole: %s", printable(self._disk.label), exc)
        except Nonsense as exc:
            log.warning("%s: allocated as a whole: %s", printable(self._disk.label), exc)
        return list(between(0, self.size))

    def _allocated(self) -> Iterator[Extent]:
        sectors = self.size // abi.SECTOR
        whole = sectors // abi.MIN_CHUNK_SECTORS
        for first in range(0, whole, abi.MAX_CHUNKS):
            chunks = min(whole - first, abi.MAX_CHUNKS)
            start, count = (each * abi.MIN_CHUNK_SECTORS for each in (first, chunks))
            answer = self._trying(
                lambda child, start=start, count=count: child.call(  # type: ignore[misc]
                    "allocated", start=start, count=count, chunk=abi.MIN_CHUNK_SECTORS
                )
            )
            yield from checked_blocks(answer.payload, start, count)
        yield from between(whole * abi.MIN_CHUNK_SECTORS * abi.SECTOR, self.size)

    def close(self) -> None:
        """In good order if possible; what fails about that is logged: all bytes are there."""
        with self._lock:
            child, self._child, self._is_closed = self._child, None, True
        if child is not None:
            try:
                child.close()
            except ChildGone as exc:
                log.info("%s: closing it: %s", printable(self._disk.label), exc)
            except SourceUnavailable as exc:
                log.warning("%s: closing it: %s", printable(self._disk.label), exc)


class Nonsense(Exception):
    """Blocks that cannot be."""


def checked_blocks(payload: memoryview, start: int, count: int) -> Iterator[Extent]:
    """Extents in bytes from the pairs of sectors that were found in [start, start + count)."""
    if len(payload) % frame.RANGE.size:
        raise Nonsense("half a block")
    at = start
    for first, length in frame.RANGE.iter_unpack(payload):
        if first < at or not length or first + length > start + count:
            raise Nonsense(f"the block of {length} sectors at {first}, after {at}")
        at = first + length
        yield Extent(first * abi.SECTOR, length * abi.SECTOR)
