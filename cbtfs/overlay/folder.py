"""The directory of an overlay: its record, its images, its lock, and the traces of a start."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.names import printable
from cbtfs.core.overlay import Overlay, OverlayDisk, decode_overlay, is_overlay_name
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.errors import (
    CbtfsError,
    DataCorrupt,
    MountFailed,
    PointNotFound,
    RepositoryLocked,
    UsageError,
)
from cbtfs.mount.mounts import mounts
from cbtfs.store.files import FILE_MODE, load_file
from cbtfs.store.holder import Holder, describe_self, parse_holder

RECORD: Final = "overlay.json"
IMAGE: Final = ".qcow2"
RAW: Final = ".raw"
_JOINT: Final = f"disks{IMAGE}"
"""Image of all disks, which have one limit."""
_LOCK: Final = "lock"
_MAX_HOLDER_BYTES: Final = 4096
_POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class OverlayFolder:
    """The directory of one overlay: NAME in the directory of `--dir`."""

    path: Path
    """Canonical."""

    @property
    def name(self) -> str:
        return self.path.name

    def image(self, disk: OverlayDisk) -> Path:
        """Return the path of the image with the writes to a disk."""
        if disk.offset is not None:
            return self.path / _JOINT
        return self.path / (disk.stem + IMAGE)

    def images(self, overlay: Overlay) -> list[Path]:
        """Return the paths of all images."""
        return list(dict.fromkeys(map(self.image, overlay.disks)))

    def load(self) -> Overlay:
        """Return the record of the overlay.

        Raises:
            PointNotFound: there is no such overlay.
            DataCorrupt: the record is damaged.
        """
        record = self.path / RECORD
        try:
            overlay = decode_overlay(load_file(record, MAX_BYTES))
            if overlay.name != self.name:
                raise ValueError(f"it is that of overlay {overlay.name}")
        except (FileNotFoundError, NotADirectoryError) as exc:
            names = overlay_names(self.path.parent)
            known = f"it has {', '.join(names)}" if names else "it has no overlay"
            raise PointNotFound(
                f"no overlay {printable(self.name)} in {printable(str(self.path.parent))}: {known}",
                names,
            ) from exc
        except OSError as exc:
            raise CbtfsError(f"cannot read {printable(str(record))}: {exc.strerror}") from exc
        except ValueError as exc:
            raise DataCorrupt(
                f"{printable(str(record))} is damaged: {exc}; restore it from a copy, or discard "
                "the overlay with --lost"
            ) from exc
        return overlay

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Hold the lock of the overlay; RepositoryLocked (exit code 11), with the holder, if taken.

        *command* is what the caller does, for the message.
        """
        fd = self._open_lock()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = parse_holder(os.pread(fd, _MAX_HOLDER_BYTES, 0))
                who = "another process" if holder is None else str(holder)
                raise RepositoryLocked(
                    f"cannot {command} overlay {self.name}: it is in use by {who}; run 'cbtfs "
                    f"overlay stop {self.name}' first"
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, describe_self(), 0)
            yield
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.path / _LOCK, flags, FILE_MODE)
        except OSError as exc:
            raise CbtfsError(
                f"cannot open the lock of overlay {self.name}: {exc.strerror}"
            ) from exc

    def holder(self) -> Holder | None:
        """Return the process that uses the overlay, or None if nobody does."""
        try:
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            unknown = Holder(0, "", "an unknown command", "", 0)
            return parse_holder(os.pread(fd, _MAX_HOLDER_BYTES, 0)) or unknown
        finally:
            os.close(fd)
        return None

    def wait_for_end(self, holder: Holder) -> None:
        """Ask the process of a running overlay to end, and wait until it has.

        Raises:
            MountFailed: it does not end in time.
        """
        if holder.pid and holder.fate in ("runs", "is stopped"):
            os.kill(holder.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.holder() is not None:
            if time.monotonic() > deadline:
                raise MountFailed(
                    f"overlay {self.name} did not stop in {STOP_SECONDS:.0f} s: it is run by "
                    f"{holder}"
                )
            time.sleep(_POLL_SECONDS)


def overlay_folder(directory: Path, name: str) -> OverlayFolder:
    """Return the directory of the overlay *name* in *directory*; UsageError for a bad name."""
    if not is_overlay_name(name):
        raise UsageError(
            f"invalid name {printable(name)!r} of an overlay: use 1 to 64 letters, digits, '.', "
            "'_', '+' and '-', without a dot or a dash at the start"
        )
    return OverlayFolder(Path(os.path.realpath(directory)) / name)


def overlay_names(directory: Path) -> list[str]:
    """Return the names of the overlays in *directory*."""
    try:
        names = sorted(filter(is_overlay_name, os.listdir(directory)))
    except OSError:
        return []
    return [name for name in names if (directory / name / RECORD).is_file()]


def refuse_directory(directory: Path, repository: Path, option: str) -> None:
    """Raise UsageError if *directory* is in the repository, or in a mount of cbtfs.

    Writes that go through a mount which needs them to continue would block the host.
    """
    path = Path(os.path.realpath(directory))
    home = Path(os.path.realpath(repository))
    shown = printable(str(directory))
    if path.is_relative_to(home):
        raise UsageError(f"{option} {shown} is inside the repository: name another directory")
    if any(mount.is_ours and path.is_relative_to(mount.path) for mount in mounts()):
        raise UsageError(f"{option} {shown} is inside a mount of cbtfs: name another directory")
