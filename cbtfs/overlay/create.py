"""Create and discard overlays.

An overlay is complete when its directory gets its name; before that, its images are durable and its
point is pinned. A discard goes the other way: the directory loses its name, the pin is removed,
then the files are. A crash in between leaves a pin without a directory, which `discard --lost`
removes, and a directory with a name that starts with a dot, which the next command removes.
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.filenames import disk_names
from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.core.overlay import Overlay, OverlayDisk, area_end, encode_overlay, joined
from cbtfs.core.pin import Pin, PinId
from cbtfs.core.units import format_size
from cbtfs.errors import (
    CbtfsError,
    DataCorrupt,
    PointNotFound,
    RepositoryLocked,
    SourceMismatch,
    UsageError,
)
from cbtfs.overlay.folder import RAW, RECORD, OverlayFolder, refuse_directory
from cbtfs.qemu.images import create_image
from cbtfs.store.files import put_if_absent, sync_folder
from cbtfs.store.identity import new_id
from cbtfs.store.pins import load_pins, put_pin, remove_pin
from cbtfs.store.repository import Repository
from cbtfs.store.settings import load_settings

_SPARE_BYTES: Final = 1 << 20
"""Minimum space for writes below the limit of an image."""
_UNFINISHED: Final = ".creating"
_DISCARDED: Final = ".discarded"


def create_overlay(
    repository: Repository, manifest: Manifest, folder: OverlayFolder, limit: int | None
) -> Overlay:
    """Create an overlay of all disks of a point, and pin the point. Needs no writer lock.

    *limit* is the maximum size of the images together in bytes. Several disks with a limit have one
    image, because QEMU can limit the size of a file only.

    Raises:
        UsageError: the overlay exists, the directory is unsuitable, or the limit is too low.
        RepositoryLocked: another process is creating it.
        PointNotFound: the point was forgotten.
    """
    directory = folder.path.parent
    refuse_directory(directory, repository.path, "--dir")
    overlay = _record(repository, manifest, folder, limit)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _unfinished(folder) as path:
            _create_images(OverlayFolder(path), overlay)
            put_if_absent(path / RECORD, encode_overlay(overlay))
            pin = _pin_of(overlay, folder)
            put_pin(repository.path, repository.points, pin)
            try:
                os.rename(path, folder.path)
            except BaseException:
                remove_pin(repository.path, pin.id)
                raise
            sync_folder(directory)
    except OSError as exc:
        raise CbtfsError(
            f"cannot create overlay {folder.name} in {printable(str(directory))}: {exc.strerror}"
        ) from exc
    return overlay


def _record(
    repository: Repository, manifest: Manifest, folder: OverlayFolder, limit: int | None
) -> Overlay:
    names = disk_names(manifest.disks)
    disks = tuple(
        OverlayDisk(disk.id, disk.label, disk.size, disk.root, name.removesuffix(RAW))
        for disk, name in zip(manifest.disks, names, strict=True)
        if disk.kind == "disk"
    )
    if not disks:
        raise UsageError(f"point {manifest.point} has no disks")
    created = format_moment(datetime.now(UTC).replace(microsecond=0))
    return Overlay(
        PinId(new_id()),
        folder.name,
        repository.settings.id,
        manifest.point,
        manifest.vm.name,
        created,
        limit,
        disks if limit is None or len(disks) == 1 else joined(disks),
    )


def _pin_of(overlay: Overlay, folder: OverlayFolder) -> Pin:
    path = str(folder.path)
    return Pin(overlay.id, overlay.point, overlay.name, socket.gethostname(), path, overlay.created)


def _create_images(folder: OverlayFolder, overlay: Overlay) -> None:
    if overlay.is_joint:
        last = overlay.disks[-1]
        _create_image(folder.image(last), area_end(last), overlay.limit)
    else:
        for disk in overlay.disks:
            _create_image(folder.image(disk), disk.size, overlay.limit)


def _create_image(path: Path, size: int, limit: int | None) -> None:
    create_image(path, size)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        if limit is not None:
            least = os.fstat(fd).st_size + _SPARE_BYTES
            if limit < least:
                raise UsageError(
                    f"--limit is too low for these disks: use at least {format_size(least)}"
                )
            os.ftruncate(fd, limit)  # The window of the limit must exist in the file.
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _unfinished(folder: OverlayFolder) -> Iterator[Path]:
    """Make the directory in which an overlay is created; remove it if that fails.

    Its lock excludes other processes that create the same overlay; without one it is a leftover.
    """
    path = folder.path.with_name(f".{folder.name}{_UNFINISHED}")
    with suppress(FileExistsError):
        path.mkdir(0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RepositoryLocked(
                f"overlay {folder.name} is being created by another process"
            ) from exc
        if os.path.lexists(folder.path):
            shutil.rmtree(path, ignore_errors=True)
            raise UsageError(
                f"{printable(str(folder.path))} exists: use another name, or discard that overlay"
            )
        for name in os.listdir(path):
            (path / name).unlink()
        try:
            yield path
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
    finally:
        os.close(fd)


def discard_overlay(repository: Path, folder: OverlayFolder) -> None:
    """Remove a stopped overlay with all writes, and its pin.

    Raises:
        PointNotFound: there is no such overlay.
        RepositoryLocked: it is in use.
        SourceMismatch: it belongs to another repository.
    """
    overlay = folder.load()
    require_repository(overlay, repository)
    gone = folder.path.with_name(f".{folder.name}{_DISCARDED}")
    try:
        with folder.locked("discard"):
            if gone.is_dir():
                shutil.rmtree(gone)
            os.rename(folder.path, gone)
            sync_folder(gone.parent)
            remove_pin(repository, overlay.id)
            shutil.rmtree(gone)
    except OSError as exc:
        raise CbtfsError(f"cannot discard overlay {folder.name}: {exc.strerror}") from exc


def discard_lost(repository: Path, folder: OverlayFolder) -> list[Pin]:
    """Remove the pins of an overlay whose directory or record is gone; return them.

    Raises:
        UsageError: the overlay exists.
        PointNotFound: the repository has no pin of such an overlay.
    """
    try:
        folder.load()
    except (PointNotFound, DataCorrupt):
        pass
    else:
        raise UsageError(
            f"overlay {folder.name} is in {printable(str(folder.path))}: discard it without --lost"
        )
    known = load_pins(repository)
    lost = [pin for pin in known if (pin.name, pin.directory) == (folder.name, str(folder.path))]
    if not lost:
        others = [pin.described for pin in known if pin.name == folder.name]
        more = f"; it has {', '.join(others)}" if others else ""
        raise PointNotFound(
            f"the repository has no pin of an overlay {folder.name} in "
            f"{printable(str(folder.path))}{more}"
        )
    for pin in lost:
        remove_pin(repository, pin.id)
    gone = folder.path.with_name(f".{folder.name}{_DISCARDED}")
    shutil.rmtree(gone, ignore_errors=True)
    return lost


def require_repository(overlay: Overlay, repository: Path) -> None:
    """Raise SourceMismatch if the overlay belongs to another repository."""
    if load_settings(repository).id != overlay.repository:
        raise SourceMismatch(
            f"overlay {overlay.name} belongs to repository {overlay.repository}, and "
            f"{printable(str(repository))} is another one: name the right one with --repo"
        )
