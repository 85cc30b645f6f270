"""The NFC buffers of ESXi hosts, which all disks of a host share.

A host has 48 MB for NFC buffers, and a read without a free buffer fails (VDDK Programming Guide,
"NFC session limits", for vSphere up to 7; later versions document no other limit).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.source.transport.base import DiskReader

NFC_BYTES: Final = 48 << 20
BUFFER_BYTES: Final = 1 << 20
"""Size of one buffer; a smaller read takes a whole buffer, too."""


class NfcBuffers:
    """The buffers of one host. Safe to use from several threads."""

    def __init__(self, size: int = NFC_BYTES) -> None:
        self._buffers = size // BUFFER_BYTES
        self._changed = threading.Condition()
        self._held = 0

    @contextmanager
    def held(self, length: int) -> Iterator[None]:
        """Wait for the buffers of a read of *length* bytes, and hold them.

        A read that is larger than all buffers together takes all buffers.
        """
        count = min(-(-length // BUFFER_BYTES), self._buffers)
        with self._changed:
            self._changed.wait_for(lambda: self._held + count <= self._buffers)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()


class NfcHosts:
    """The buffers of all hosts. Safe to use from several threads."""

    def __init__(self, size: int = NFC_BYTES) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._hosts: dict[str | None, NfcBuffers] = {}

    def of(self, host: str | None) -> NfcBuffers:
        """Return the buffers of the host with that managed object id; None is one host, too."""
        with self._lock:
            return self._hosts.setdefault(host, NfcBuffers(self._size))


class NfcReader:
    """Wraps a reader so that its reads hold NFC buffers of the host."""

    def __init__(self, reader: DiskReader, buffers: NfcBuffers) -> None:
        self._reader = reader
        self._buffers = buffers
        self.size = reader.size
        self.mode = reader.mode

    def allocated(self) -> "list[Extent]":
        return list(self._reader.allocated())

    def read(self, extent: Extent) -> bytes | memoryview:
        with self._buffers.held(extent.length):
            return self._reader.read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        with self._buffers.held(extent.length):
            self._reader.read_into(extent, parts)

    def close(self) -> None:
        self._reader.close()
