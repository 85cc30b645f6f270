"""Records that a disk's change lists lack changes: points/<disk id>.distrusted, one for each disk.

The record must survive however the run ends that detected the miss, even by a full file system. So
it is written and flushed before the audit reads anything, under a temporary name that the next
writer removes. When the audit detects a miss, it only renames the record, which takes no space.
"""

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cbtfs.core.distrust import Distrust, decode_distrust, encode_distrust, unreadable
from cbtfs.core.ids import DiskId, is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.errors import DataCorrupt, StoreFailed
from cbtfs.store import reserve
from cbtfs.store.backend.layout import open_points
from cbtfs.store.storing import storing

log = logging.getLogger(__name__)

DISTRUST_SUFFIX: Final = ".distrusted"
_ARMED_SUFFIX: Final = ".armed.tmp"
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


class DistrustFolder:
    """The distrust records of a repository. Only the writer may change them."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._backend = open_points(repository)

    def close(self) -> None:
        """Close the directory."""
        self._backend.close()

    def path(self, disk: DiskId) -> Path:
        """Return the path of a record, for messages."""
        return self._backend.path(disk + DISTRUST_SUFFIX)

    def disks(self) -> list[DiskId]:
        """Return the disks that have a record."""
        names = (name for name in self._backend.names() if name.endswith(DISTRUST_SUFFIX))
        return sorted(
            DiskId(n) for n in (n.removesuffix(DISTRUST_SUFFIX) for n in names) if is_id(n)
        )

    def read(self, disk: DiskId) -> Distrust | None:
        """Return the record of *disk*, or None; DataCorrupt if it cannot be read."""
        name = disk + DISTRUST_SUFFIX
        try:
            return decode_distrust(self._backend.get(name, 0, MAX_BYTES + 1).data, disk)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
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
            self._backend.replace(record.disk + _ARMED_SUFFIX, encode_distrust(record))
        return Armed(self, record)

    def put_armed(self, disk: DiskId) -> None:
        """Make the armed record of *disk* its record; OSError if that is not durable."""

        def rename() -> None:
            with contextlib.suppress(FileNotFoundError):  # An earlier call has renamed it.
                self._backend.rename(disk + _ARMED_SUFFIX, disk + DISTRUST_SUFFIX)
            self._backend.flush()

        self._with_reserve(rename)

    def remove_armed(self, disk: DiskId) -> None:
        """Remove the armed record of *disk*; OSError if that fails."""
        self._backend.delete(disk + _ARMED_SUFFIX)

    def amend(self, record: Distrust) -> Distrust:
        """Replace the record of a disk by *record*, which has more facts; log a failure."""
        try:
            self._with_reserve(lambda: self._put(record))
        except OSError as exc:
            log.warning("the record of disk %s is incomplete: %s", record.disk, exc.strerror)
        return record

    def adopt(self, record: Distrust) -> None:
        """Keep the record of another repository, unless this one's is newer.

        Raises:
            StoreFailed: it cannot be written.
        """
        known = self.load(record.disk)
        if known == record or (known is not None and known.order > record.order):
            return
        if known is not None and known.order == record.order and known.trusted_from is None:
            record = replace(record, trusted_from=None)
            if known == record:
                return
        with storing("a record of distrust"):
            self._put(record)

    def settle(self, disk: DiskId, order: int) -> None:
        """Trust change lists relative to the point *order* and later: it has a full scan of *disk*.

        If this cannot be written, the lists stay distrusted, which costs another full scan.
        """
        record = self.load(disk)
        if record is None or not record.covers(order, is_full=False):
            return
        try:
            self._put(record.trusting_from(order))
        except OSError as exc:
            log.warning("disk %s will be read whole again: %s", disk, exc.strerror)

    def _put(self, record: Distrust) -> None:
        self._backend.replace(record.disk + DISTRUST_SUFFIX, encode_distrust(record))

    def _with_reserve(self, write: Callable[[], None]) -> None:
        """Call *write*; if there is no space left, remove the reserve and call it again."""
        try:
            write()
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            reserve.give_up(self._repository)
            write()
