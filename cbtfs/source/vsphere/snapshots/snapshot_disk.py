"""A snapshot disk as a source: bytes come from a transport, changes from vSphere."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cbtfs.core.extent import Extent
from cbtfs.core.reasons import Reason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, Since, Stopped
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import DatastoreFacts


@dataclass(frozen=True, slots=True)
class SnapshotLocation:
    """The data of a snapshot that is common to its disks."""

    vm: str
    """The managed object id of the VM."""
    snapshot: str
    """The managed object id of the snapshot; empty before it is taken."""
    datacenter: str
    """Inventory path of the datacenter."""
    is_alone: bool
    """The VM has no other snapshot."""
    host: str | None = None
    """The managed object id of the VM's host; None if unknown."""


def transport_disks(
    location: SnapshotLocation,
    disks: Sequence[DiskFacts],
    stores: Mapping[str, DatastoreFacts],
    whole: Collection[str] = (),
) -> dict[int, TransportDisk]:
    """Return by device key the data of *disks* that a transport needs.

    *stores* has the datastores by managed object id, *whole* the identities of the disks that will
    be read completely.
    """
    described = {}
    for disk in disks:
        store = stores.get(disk.datastore or "")
        described[disk.key] = TransportDisk(
            label=disk.label,
            vm=location.vm,
            snapshot=location.snapshot,
            key=disk.key,
            size=disk.size,
            path=disk.path,
            datastore_type="unknown" if store is None else store.type,
            datacenter=location.datacenter,
            is_flat=disk.is_flat,
            is_alone=location.is_alone and disk.links == 1,
            host=location.host,
            slot=disk.slot,
            is_whole=disk.identity in whole,
        )
    return described


class SnapshotTooOld(SourceUnavailable):
    """Raised when the snapshot has reached its maximum age."""


class Watch:
    """Ends reads when the run is cancelled or the snapshot is too old."""

    def __init__(
        self,
        stop: threading.Event,
        max_age: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._max_age = max_age
        self._clock = clock
        self._began = clock()

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def start(self, age: float = 0.0) -> None:
        """Start the clock of a snapshot that is *age* seconds old now."""
        self._began = self._clock() - age

    def look(self) -> None:
        """Raise Stopped if the run is cancelled, SnapshotTooOld if the snapshot is too old."""
        if self._stop.is_set():
            raise Stopped("interrupted")
        if self._max_age is not None and self._clock() - self._began >= self._max_age:
            raise SnapshotTooOld(
                f"the snapshot is older than --max-snapshot-age ({self._max_age:.0f} s): nothing "
                "is committed"
            )


class SnapshotDisk:
    """A DiskSource for one disk of a snapshot; its reader is opened on first use."""

    is_local = False

    def __init__(
        self,
        size: int,
        open_reader: Callable[[], DiskReader],
        changes: Callable[[Since], Sequence[Extent]],
        check: Callable[[], None],
        watch: Watch,
    ) -> None:
        """*check* raises an error if the snapshot has changed."""
        self.size = size
        self._open = open_reader
        self._changes = changes
        self._check = check
        self._watch = watch
        self._lock = threading.Lock()
        self._opened: DiskReader | None = None
        self.transport_mode: str | None = None
        """Mode of the reader when it was opened; None before."""

    def changed(self, since: Since) -> Sequence[Extent]:
        self._watch.look()
        return self._changes(since)

    def allocated(self) -> Sequence[Extent]:
        return self._reader().allocated()

    def read(self, extent: Extent) -> bytes | memoryview:
        return self._reader().read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        self._reader().read_into(extent, parts)

    def _reader(self) -> DiskReader:
        self._watch.look()
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
                self.transport_mode = self._opened.mode
            return self._opened

    def confirm(self) -> None:
        self._watch.look()
        self._check()

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()


def never_changed(reason: Reason) -> Callable[[Since], Sequence[Extent]]:
    """Return a change query that always raises *reason*."""

    def changes(since: Since) -> Sequence[Extent]:
        raise ChangeTrackingInvalid(reason.text, reason.code)

    return changes
