"""The httpnfc transport: the last resort where nothing else can read a disk."""

import threading
from collections.abc import Sequence

from cbtfs.core.extent import Extent
from cbtfs.source.base import copy_into
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.transport.httpnfc.download import Download
from cbtfs.source.transport.httpnfc.lease import OpenLease, SharedLease
from cbtfs.source.transport.httpnfc.passes import KEPT_BYTES, StreamedDisk
from cbtfs.source.transport.web import Web
from cbtfs.source.vsphere.connect.role import Use


class HttpNfcTransport:
    """Downloads whole disks of a snapshot, as an export to OVF does."""

    name = "httpnfc"
    access = None
    privileges: frozenset[Use] = frozenset({"export"})

    def __init__(self, web: Web, open_lease: OpenLease, kept_bytes: int = KEPT_BYTES) -> None:
        self._web = web
        self._open_lease = open_lease
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._leases: dict[str, SharedLease] = {}

    def connections(self) -> int:
        """Return 1: the host sends the file through its NFC service."""
        return 1

    def refusal(self, disk: TransportDisk) -> str | None:
        if not disk.is_whole:
            return (
                "it reads whole disks only, and this disk has a point with which changes may be "
                "queried: give --full"
            )
        return None if disk.slot else "the controller of the disk is of an unknown type"

    def open(self, disk: TransportDisk) -> DiskReader:
        with self._lock:
            lease = self._leases.get(disk.snapshot)
            if lease is None:
                lease = SharedLease(self._open_lease, disk.vm, disk.snapshot)
                self._leases[disk.snapshot] = lease
            lease.readers += 1
        reader = _ExportedDisk(self, lease, disk)
        try:
            reader.begin()
        except BaseException:
            reader.close()
            raise
        return reader

    def reader_of(self, lease: SharedLease, disk: TransportDisk) -> StreamedDisk:
        """Return a reader that downloads *disk*, and again after a lost connection or lease."""

        def download() -> Download:
            return Download(self._web, lease.device(disk), disk.size)

        web = self._web
        return StreamedDisk(disk.size, download, web.pauses, self._kept_bytes, web.sleep)

    def leave(self, lease: SharedLease, snapshot: str, *, is_complete: bool) -> None:
        """Remove a reader of *lease*, the lease of *snapshot*."""
        with self._lock:
            if lease.leave(is_complete=is_complete):
                self._leases.pop(snapshot, None)


class _ExportedDisk:
    """One disk of an export lease."""

    mode = "httpnfc"

    def __init__(
        self, transport: HttpNfcTransport, lease: SharedLease, disk: TransportDisk
    ) -> None:
        self.size = disk.size
        self._transport = transport
        self._lease = lease
        self._disk = disk
        self._streamed = transport.reader_of(lease, disk)
        self._is_closed = False

    def begin(self) -> None:
        """Start the download; SourceUnavailable if the disk is not exported, or not this size."""
        self._lease.device(self._disk)
        if self.size:
            self._streamed.read(Extent(0, 1))

    def allocated(self) -> Sequence[Extent]:
        """Return the whole disk: the file shows holes only where it is read."""
        return [Extent(0, self.size)] if self.size else []

    def read(self, extent: Extent) -> bytes:
        data = self._streamed.read(extent)
        self._lease.advance(self._disk.slot, self._streamed.position, self.size)
        return data

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._streamed.close()
        is_complete = self._streamed.is_whole
        self._transport.leave(self._lease, self._disk.snapshot, is_complete=is_complete)
