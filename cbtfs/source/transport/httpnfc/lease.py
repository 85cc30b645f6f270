"""The export lease that the disks of a snapshot share: opened, kept alive, ended.

vSphere changes no VM while a lease on it is open, so the lease ends before the snapshot is removed.
A lease without progress reports times out.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.httpnfc.download import DeviceUrl

log = logging.getLogger(__name__)

_REPORTS: Final = 4
"""Progress reports within one timeout of the lease."""
_LEAST_SECONDS: Final = 0.1


class ExportLease(Protocol):
    """A lease on the disks of a snapshot that is ready."""

    @property
    def devices(self) -> Mapping[str, DeviceUrl]:
        """The disks by slot, scsi0:1."""

    @property
    def seconds(self) -> float:
        """Timeout of the lease without progress reports."""

    def report(self, percent: int) -> None:
        """Report progress; SourceUnavailable if the lease has ended."""

    def end(self, *, is_complete: bool) -> None:
        """End the lease: complete it or abort it; CbtfsError if that fails."""


OpenLease = Callable[[str, str], ExportLease]
"""Returns a ready lease of a snapshot, by the managed object ids of VM and snapshot; raises
SourceUnavailable or AccessDenied."""


class SharedLease:
    """The lease of one snapshot. It ends when its last reader closes."""

    def __init__(self, open_lease: OpenLease, vm: str, snapshot: str) -> None:
        self._open = partial(open_lease, vm, snapshot)
        self._lock = threading.Lock()
        self._lease: ExportLease | None = None
        self._stop = threading.Event()
        self._progress: dict[str, tuple[int, int]] = {}
        self._is_complete = True
        self.readers = 0

    def device(self, disk: TransportDisk) -> DeviceUrl:
        """Return the address of *disk*; open a lease first if no lease is ready.

        Raises:
            SourceUnavailable: the lease does not offer the disk, or there is no lease.
            AccessDenied: the user lacks the privilege.
        """
        with self._lock:
            lease = self._lease
            if lease is not None and self._has_ended(lease):
                self._end(is_complete=False)
                lease = None
            if lease is None:
                lease = self._lease = self._open()
                self._stop = threading.Event()
                threading.Thread(
                    target=self._keep_alive,
                    args=(lease, self._stop),
                    name="export-lease",
                    daemon=True,
                ).start()
            device = lease.devices.get(disk.slot)
        if device is None:
            offered = ", ".join(sorted(lease.devices)) or "no disk"
            raise SourceUnavailable(
                f"the export lease does not offer {printable(disk.label)} ({disk.slot}), but "
                f"{offered}"
            )
        return device

    def _has_ended(self, lease: ExportLease) -> bool:
        try:
            lease.report(self._percent())
        except CbtfsError as exc:
            log.info("the export lease has ended: %s", exc)
            return True
        return False

    def advance(self, slot: str, position: int, size: int) -> None:
        """Record how many bytes of the disk in *slot* were read."""
        self._progress[slot] = (position, size)

    def _percent(self) -> int:
        """Return the share of the disks that were opened so far; at most 99."""
        progress = list(self._progress.values())
        size = sum(size for _, size in progress)
        return min(99, 100 * sum(position for position, _ in progress) // size) if size else 0

    def _keep_alive(self, lease: ExportLease, stop: threading.Event) -> None:
        while not stop.wait(max(lease.seconds / _REPORTS, _LEAST_SECONDS)):
            try:
                lease.report(self._percent())
            except CbtfsError as exc:
                log.info("the export lease may end: %s", exc)

    def leave(self, *, is_complete: bool) -> bool:
        """Remove a reader; end the lease after the last one, and return whether it was the last."""
        with self._lock:
            self.readers -= 1
            self._is_complete = self._is_complete and is_complete
            if self.readers:
                return False
            self._end(is_complete=self._is_complete)
            return True

    def _end(self, *, is_complete: bool) -> None:
        self._stop.set()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            lease.end(is_complete=is_complete)
        except CbtfsError as exc:
            log.warning("the export lease is not ended, and will time out: %s", exc)
