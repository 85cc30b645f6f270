"""Records that a disk's change lists lack changes: points/<disk id>.distrusted, one for each disk.

The record must survive however the run ends that detected the miss, even by a full file system. So
it is written and flushed before the audit reads anything, under a temporary name that the next
writer removes. When the audit detects a miss, it only renames the record, which takes no space.
"""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.distrust import Distrust, decode_distrust, encode_distrust, unreadable
from cbtfs.core.ids import DiskId, is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.errors import DataCorrupt, StoreFailed
from cbtfs.store import reserve
from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.layout import DISTRUST, open_objects, open_points
from cbtfs.store.settings import load_settings
from cbtfs.store.shared.numbered import all_numbers, newest_of, put_next
from cbtfs.store.storing import storing

log = logging.getLogger(__name__)

DISTRUST_SUFFIX: Final = ".distrusted"
ARMED_SUFFIX: Final = ".armed.tmp"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Armed:
    """A durable record that takes effect when it is renamed.

    Several threads may call fire().
    """

    def __init__(self, folder: "DistrustFolder", record: Distrust) -> None:
        self._folder = folder
        self._record = record
        self._lock = threading.Lock()
        self._is_fired = False

    def fire(self) -> None:
        """Put the record into effect, durably; a second call does nothing.

        Raises:
            StoreFailed: the record is not durable, so the next run may trust the disk's list.
        """
        with self._lock:
            if self._is_fired:
                return
            try:
                self._folder.put_armed(self._record.disk)
            except OSError as exc:
                raise StoreFailed(
                    f"change tracking missed blocks of disk {self._record.disk}, and that cannot "
                    f"be recorded: {exc.strerror}; capture the disk with --full next"
                ) from exc
            self._is_fired = True

    def count(self, blocks: int, *, is_allocation: bool = False) -> None:
        """Add to the record in effect how many blocks were missed, and whether allocation did."""
        found = replace(self._record, blocks=blocks, is_allocation=is_allocation)
        self._record = self._folder.amend(found)

    def confirm(self) -> None:
        """Add to the record in effect that the source confirmed its data."""
        self._record = self._folder.amend(replace(self._record, is_confirmed=True))

    def disarm(self) -> None:
        """Remove the record if it did not take effect."""
        with contextlib.suppress(OSError):
            self._folder.remove_armed(self._record.disk)


Change = Callable[[Distrust | None], Distrust | None]
"""Return the record that follows a known one, which is None if absent; None: no change."""


class Records(Protocol):
    """The storage of distrust records."""

    def close(self) -> None:
        """Close the storage."""

    def path(self, disk: DiskId) -> Path:
        """Return the path of a record, for messages."""

    def disks(self) -> list[DiskId]:
        """Return the disks that have a record."""

    def load(self, disk: DiskId) -> bytes:
        """Return the bytes of a record; FileNotFoundError if it is absent."""

    def change(self, disk: DiskId, change: Callable[[bytes | None], bytes | None]) -> None:
        """Change a record durably. *change* gets the present bytes, maybe more than once.

        It gets no bytes for a record that cannot be read, and None if the disk has no record.
        """

    def arm(self, disk: DiskId, data: bytes) -> None:
        """Write a record durably that put_armed() puts into effect."""

    def put_armed(self, disk: DiskId) -> None:
        """Make the armed record the record of its disk, durably. A second call does nothing."""

    def remove_armed(self, disk: DiskId) -> None:
        """Remove the armed record, if it is not in effect."""


class FileRecords:
    """Files beside the manifests, for one writer."""

    def __init__(self, backend: FileBackend) -> None:
        self._backend = backend

    def close(self) -> None:
        self._backend.close()

    def path(self, disk: DiskId) -> Path:
        return self._backend.path(disk + DISTRUST_SUFFIX)

    def disks(self) -> list[DiskId]:
        names = (name for name in self._backend.names() if name.endswith(DISTRUST_SUFFIX))
        return sorted(
            DiskId(n) for n in (n.removesuffix(DISTRUST_SUFFIX) for n in names) if is_id(n)
        )

    def load(self, disk: DiskId) -> bytes:
        return self._backend.get(disk + DISTRUST_SUFFIX, 0, MAX_BYTES + 1).data

    def change(self, disk: DiskId, change: Callable[[bytes | None], bytes | None]) -> None:
        known: bytes | None = None
        try:
            known = self.load(disk)
        except FileNotFoundError:
            """There is no record."""
        except (OSError, ValueError, DataCorrupt):
            known = b""
        data = change(known)
        if data is not None:
            self._backend.replace(disk + DISTRUST_SUFFIX, data)

    def arm(self, disk: DiskId, data: bytes) -> None:
        self._backend.replace(disk + ARMED_SUFFIX, data)

    def put_armed(self, disk: DiskId) -> None:
        with contextlib.suppress(FileNotFoundError):  # An earlier call has renamed it.
            self._backend.rename(disk + ARMED_SUFFIX, disk + DISTRUST_SUFFIX)
        self._backend.flush()

    def remove_armed(self, disk: DiskId) -> None:
        self._backend.delete(disk + ARMED_SUFFIX)


class NumberedRecords:
    """Objects that are created once, for several writers; the highest number counts.

    An armed record is in memory: its creation needs space, which the reserve has.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._armed: dict[DiskId, bytes] = {}

    def close(self) -> None:
        self._backend.close()

    def path(self, disk: DiskId) -> Path:
        return self._backend.path(disk)

    def disks(self) -> list[DiskId]:
        return sorted(map(DiskId, all_numbers(self._backend)))

    def load(self, disk: DiskId) -> bytes:
        newest = newest_of(self._backend, disk)
        if newest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), disk)
        return newest[1]

    def change(self, disk: DiskId, change: Callable[[bytes | None], bytes | None]) -> None:
        put_next(self._backend, disk, lambda newest: change(None if newest is None else newest[1]))

    def arm(self, disk: DiskId, data: bytes) -> None:
        self._armed[disk] = data

    def put_armed(self, disk: DiskId) -> None:
        data = self._armed.get(disk)
        if data is not None:
            self.change(disk, lambda _: data)
            self._armed.pop(disk, None)

    def remove_armed(self, disk: DiskId) -> None:
        self._armed.pop(disk, None)


def _open_records(repository: Path) -> Records:
    if load_settings(repository).is_shared:
        return NumberedRecords(open_objects(repository, DISTRUST))
    return FileRecords(open_points(repository))


class DistrustFolder:
    """The distrust records of a repository. Only the writer may change them."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._records = _open_records(repository)

    def close(self) -> None:
        """Close the directory."""
        self._records.close()

    def path(self, disk: DiskId) -> Path:
        """Return the path of a record, for messages."""
        return self._records.path(disk)

    def disks(self) -> list[DiskId]:
        """Return the disks that have a record."""
        return self._records.disks()

    def read(self, disk: DiskId) -> Distrust | None:
        """Return the record of *disk*, or None; DataCorrupt if it cannot be read."""
        try:
            return decode_distrust(self._records.load(disk), disk)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            name = self._records.path(disk).name
            raise DataCorrupt(f"record {name} is damaged: {exc}") from exc

    def load(self, disk: DiskId) -> Distrust | None:
        """Return the record of *disk*, or None. A damaged record distrusts every list."""
        try:
            return self.read(disk)
        except DataCorrupt as exc:
            log.warning("%s: reading the whole disk", exc)
            return unreadable(disk)

    def arm(self, record: Distrust) -> Armed:
        """Write and flush *record* without putting it into effect; StoreFailed if that fails."""
        with storing("the record of an audit"):
            self._records.arm(record.disk, encode_distrust(record))
        return Armed(self, record)

    def put_armed(self, disk: DiskId) -> None:
        """Make the armed record of *disk* its record; OSError if that is not durable."""
        self._with_reserve(lambda: self._records.put_armed(disk))

    def remove_armed(self, disk: DiskId) -> None:
        """Remove the armed record of *disk*; OSError if that fails."""
        self._records.remove_armed(disk)

    def amend(self, record: Distrust) -> Distrust:
        """Replace the record of a disk by *record*, which has more facts; log a failure."""
        try:
            self._with_reserve(lambda: self._change(record.disk, lambda _: record))
        except OSError as exc:
            log.warning("the record of disk %s is incomplete: %s", record.disk, exc.strerror)
        return record

    def adopt(self, record: Distrust) -> None:
        """Keep the record of another repository, unless this one's is newer.

        Raises:
            StoreFailed: it cannot be written.
        """

        def newer(known: Distrust | None) -> Distrust | None:
            if known == record or (known is not None and known.order > record.order):
                return None
            if known is not None and known.order == record.order and known.trusted_from is None:
                found = replace(record, trusted_from=None)
                return None if known == found else found
            return record

        with storing("a record of distrust"):
            self._change(record.disk, newer)

    def settle(self, disk: DiskId, order: int) -> None:
        """Trust change lists relative to the point *order* and later: it has a full scan of *disk*.

        If this cannot be written, the lists stay distrusted, which costs another full scan.
        """

        def trusting(known: Distrust | None) -> Distrust | None:
            if known is None or not known.covers(order, is_full=False):
                return None
            return known.trusting_from(order)

        if self.load(disk) is None:
            return
        try:
            self._change(disk, trusting)
        except OSError as exc:
            log.warning("disk %s will be read whole again: %s", disk, exc.strerror)

    def _change(self, disk: DiskId, change: Change) -> None:
        """Change the record of *disk*; a damaged record distrusts every list."""

        def changed(data: bytes | None) -> bytes | None:
            known = None
            if data is not None:
                try:
                    known = decode_distrust(data, disk)
                except ValueError:
                    known = unreadable(disk)
            record = change(known)
            return None if record is None else encode_distrust(record)

        self._records.change(disk, changed)

    def _with_reserve(self, write: Callable[[], None]) -> None:
        """Call *write*; if there is no space left, remove the reserve and call it again."""
        try:
            write()
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            reserve.give_up(self._repository)
            write()
