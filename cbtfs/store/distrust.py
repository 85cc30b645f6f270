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
from typing import Final

from cbtfs.core.distrust import Distrust, decode_distrust, encode_distrust, unreadable
from cbtfs.core.ids import DiskId, is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.errors import DataCorrupt, StoreFailed
from cbtfs.store.files import create, load_file, storing, sync_folder, write_all
from cbtfs.store.files import replace as put_file
from cbtfs.store.folder import open_folder
from cbtfs.store.reserve import RESERVE

log = logging.getLogger(__name__)

DISTRUST_SUFFIX: Final = ".distrusted"
_ARMED_SUFFIX: Final = ".armed.tmp"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Armed:
    """A durable record that takes effect when it is renamed.

    Several threads may call fire().
    """

    def __init__(self, folder: "DistrustFolder", record: Distrust, path: Path) -> None:
        self._folder = folder
        self._record = record
        self._path = path
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
                self._folder.rename(self._path, self._record.disk)
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
            self._path.unlink(missing_ok=True)


class DistrustFolder:
    """The distrust records of a repository. Only the writer may change them."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._folder = open_folder(repository / "points")

    def close(self) -> None:
        """Close the directory."""
        self._folder.close()

    @property
    def _path(self) -> Path:
        return self._folder.at

    def path(self, disk: DiskId) -> Path:
        return self._path / (disk + DISTRUST_SUFFIX)

    def disks(self) -> list[DiskId]:
        """Return the disks that have a record."""
        names = (name for name in os.listdir(self._path) if name.endswith(DISTRUST_SUFFIX))
        return sorted(
            DiskId(n) for n in (n.removesuffix(DISTRUST_SUFFIX) for n in names) if is_id(n)
        )

    def read(self, disk: DiskId) -> Distrust | None:
        """Return the record of *disk*, or None; DataCorrupt if it cannot be read."""
        path = self.path(disk)
        try:
            return decode_distrust(load_file(path, MAX_BYTES), disk)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise DataCorrupt(f"record {path.name} is damaged: {exc}") from exc

    def load(self, disk: DiskId) -> Distrust | None:
        """Return the record of *disk*, or None. A damaged record distrusts every list."""
        try:
            return self.read(disk)
        except DataCorrupt as exc:
            log.warning("%s: reading the whole disk", exc)
            return unreadable(disk)

    def arm(self, record: Distrust) -> Armed:
        """Write and flush *record* without putting it into effect; StoreFailed if that fails."""
        path = self._path / (record.disk + _ARMED_SUFFIX)
        with storing("the record of an audit"):
            path.unlink(missing_ok=True)
            fd = create(path)
            try:
                write_all(fd, [encode_distrust(record)])
                os.fsync(fd)
            finally:
                os.close(fd)
        return Armed(self, record, path)

    def rename(self, armed: Path, disk: DiskId) -> None:
        """Make the file at *armed* the record of *disk*; OSError if that is not durable."""

        def rename() -> None:
            if armed.exists():
                os.replace(armed, self.path(disk))
            sync_folder(self._path)

        self._with_reserve(rename)

    def amend(self, record: Distrust) -> Distrust:
        """Replace the record of a disk by *record*, which has more facts; log a failure."""
        try:
            self._with_reserve(lambda: self._put(record))
        except OSError as exc:
            log.warning("the record of disk %s is incomplete: %s", record.disk, exc.strerror)
        return record

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
        put_file(self.path(record.disk), encode_distrust(record))

    def _with_reserve(self, write: Callable[[], None]) -> None:
        """Call *write*; if there is no space left, remove the reserve and call it again."""
        try:
            write()
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            with contextlib.suppress(OSError):
                (self._repository / RESERVE).unlink()
            write()
