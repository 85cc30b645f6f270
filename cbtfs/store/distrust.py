"""Records that a disk's change lists lack changes: points/<disk id>.distrusted, one for each disk.

The record must outlive whatever ends the run that found the miss, a full disk included. So it is
written and flushed before the audit reads anything, under a temporary name that the next writer
removes. A find then only renames it, which takes no space.
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
    """A record that is on the disk already and takes effect by being renamed.

    fire() may be called from several threads.
    """

    def __init__(self, folder: "DistrustFolder", record: Distrust, path: Path) -> None:
        self._folder = folder
        self._record = record
        self._path = path
        self._lock = threading.Lock()
        self._is_fired = False

    def fire(self) -> None:
        """Put the record into effect, durably; nothing more if that is done.

        Raises:
            StoreFailed: the record is not durable: the next run may trust the disk's list.
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

    def count(self, blocks: int) -> None:
        """Add to the record in effect that so many blocks were missed."""
        self._record = self._folder.amend(replace(self._record, blocks=blocks))

    def confirm(self) -> None:
        """Add to the record in effect that the source confirmed what it showed."""
        self._record = self._folder.amend(replace(self._record, is_confirmed=True))

    def disarm(self) -> None:
        """Remove a record that did not take effect."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class DistrustFolder:
    """The records of a repository. Only the writer may change them."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._folder = open_folder(repository / "points")
        self._path = self._folder.at

    def path(self, disk: DiskId) -> Path:
        return self._path / (disk + DISTRUST_SUFFIX)

    def disks(self) -> list[DiskId]:
        """The disks that have a record."""
        names = (name for name in os.listdir(self._path) if name.endswith(DISTRUST_SUFFIX))
        return sorted(
            DiskId(n) for n in (n.removesuffix(DISTRUST_SUFFIX) for n in names) if is_id(n)
        )

    def read(self, disk: DiskId) -> Distrust | None:
        """The record of *disk*; None if there is none. DataCorrupt if it cannot be read."""
        path = self.path(disk)
        try:
            return decode_distrust(load_file(path, MAX_BYTES), disk)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise DataCorrupt(f"record {path.name} is damaged: {exc}") from exc

    def load(self, disk: DiskId) -> Distrust | None:
        """The record of *disk*, if there is one. A damaged one distrusts every list."""
        try:
            return self.read(disk)
        except DataCorrupt as exc:
            log.warning("%s: the disk is read whole", exc)
            return unreadable(disk)

    def arm(self, record: Distrust) -> Armed:
        """Write and flush *record* without effect; StoreFailed if there is no space for it."""
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
        """Let the file at *armed* be the record of *disk*; OSError if that is not durable."""

        def rename() -> None:
            if armed.exists():
                os.replace(armed, self.path(disk))
            sync_folder(self._path)

        self._with_reserve(rename)

    def amend(self, record: Distrust) -> Distrust:
        """Replace the record of its disk by *record*, which says more; it may fail for space."""
        try:
            self._with_reserve(lambda: self._put(record))
        except OSError as exc:
            log.warning("the record of disk %s is incomplete: %s", record.disk, exc.strerror)
        return record

    def settle(self, disk: DiskId, order: int) -> None:
        """Trust lists since the point of that *order* on: it has a full scan of *disk*.

        Where that cannot be written the lists stay distrusted, which costs another full scan.
        """
        record = self.load(disk)
        if record is None or not record.covers(order, is_full=False):
            return
        try:
            self._put(record.trusting_from(order))
        except OSError as exc:
            log.warning("disk %s will be read whole once more: %s", disk, exc.strerror)

    def _put(self, record: Distrust) -> None:
        put_file(self.path(record.disk), encode_distrust(record))

    def _with_reserve(self, write: Callable[[], None]) -> None:
        """Do *write*; where there is no space left, once more without the reserve."""
        try:
            write()
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            with contextlib.suppress(OSError):
                (self._repository / RESERVE).unlink()
            write()
