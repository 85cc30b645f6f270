"""A file that reserves free space, so that forget and prune work on a full disk."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.store.catalog.gate import DATA
from cbtfs.store.files import create, open_regular

RESERVE: Final = "reserve"

_SMALLEST_BYTES: Final = 1 << 20
_LARGEST_BYTES: Final = 64 << 20
_LEAST_BYTES: Final = 64 << 10
"""Minimum size of a reserve."""
_LOW: Final = 4
"""Space is low if less is free than this multiple of the space that a catalog rewrite takes."""
_PLENTY: Final = 2
"""A reserve is made and kept if this multiple of its size is free."""


def stored_catalog_bytes(path: Path) -> int:
    """Return the size of the catalog's file; 0 if it does not exist."""
    try:
        return (path / "catalog" / DATA).stat().st_size
    except OSError:
        return 0


def catalog_bytes(path: Path) -> int:
    """Return the free space that a rewrite of the catalog of the repository at *path* takes.

    LMDB copies each page that a transaction touches, and reuses the old pages only two
    transactions later.
    """
    return min(max(2 * stored_catalog_bytes(path), _SMALLEST_BYTES), _LARGEST_BYTES)


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write to the file system of *path*."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


def is_low(path: Path) -> bool:
    """Return whether space is so low that a writer must save space in the catalog."""
    return free_bytes(path) < _LOW * catalog_bytes(path)


def keep(path: Path, pack_bytes: int) -> None:
    """Make the reserve of the repository at *path*, unless space is low.

    *pack_bytes* is the size of the largest pack. A reserve for one pack and the catalog lets a
    prune rewrite any pack on a full disk.
    """
    with contextlib.suppress(OSError):
        wanted = catalog_bytes(path)
        with_pack = wanted + wanted // 2 + pack_bytes  # The moves are a third transaction.
        if is_low(path):
            return
        if free_bytes(path) >= _PLENTY * with_pack:
            _make(path, with_pack)
        else:
            _make(path, wanted)


def _make(path: Path, wanted: int) -> None:
    """Make a reserve of at least *wanted* bytes; OSError if there is not enough free space."""
    file = path / RESERVE
    if file.is_symlink() or (file.exists() and file.stat().st_size >= wanted):
        return
    fd = open_regular(file, os.O_RDWR) if file.exists() else create(file)
    try:
        os.posix_fallocate(fd, 0, wanted)
    except OSError:
        with contextlib.suppress(OSError):
            file.unlink()
        raise
    finally:
        os.close(fd)


def give_up(path: Path) -> None:
    """Remove the reserve of the repository at *path*; the next writer makes a new one."""
    with contextlib.suppress(OSError):
        (path / RESERVE).unlink()


@contextmanager
def released(path: Path) -> Iterator[None]:
    """If space is low, remove the reserve until the end of the block; then make it again.

    The new reserve takes the space that was freed meanwhile, up to its former size.
    """
    held = 0
    if path.is_dir():
        with contextlib.suppress(OSError):
            held = (path / RESERVE).stat(follow_symlinks=False).st_size
        if is_low(path) or free_bytes(path) < _PLENTY * held:
            give_up(path)
    try:
        yield
    finally:
        wanted = max(catalog_bytes(path), held)
        while wanted >= _LEAST_BYTES:
            try:
                if path.is_dir():
                    _make(path, wanted)
                break
            except OSError:
                wanted //= 2
