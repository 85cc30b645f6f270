"""Room that is kept back, so that a full disk can still be emptied by forget and prune."""

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
"""Less is of no use."""
_TIGHT: Final = 4
"""Space is low where less is free than so many times what rewriting the catalog takes."""
_PLENTY: Final = 2
"""A reserve is made, and kept, where so many times its size are free."""


def stored_catalog_bytes(path: Path) -> int:
    """Size of the catalog's file; 0 if there is none."""
    try:
        return (path / "catalog" / DATA).stat().st_size
    except OSError:
        return 0


def catalog_bytes(path: Path) -> int:
    """Free space that it takes to rewrite the catalog of the repository at *path*.

    LMDB writes a copy of each page that a transaction touches, and uses the old ones again only
    two transactions later.
    """
    return min(max(2 * stored_catalog_bytes(path), _SMALLEST_BYTES), _LARGEST_BYTES)


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write where *path* is."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def is_tight(path: Path) -> bool:
    """Whether so little is free that a writer has to save space in the catalog."""
    return free_bytes(path) < _TIGHT * catalog_bytes(path)


def keep(path: Path, pack_bytes: int) -> None:
    """Have the reserve of the repository at *path*, unless space is low.

    *pack_bytes* is the size of the largest pack: with that and the catalog's part, a prune on a
    full disk can rewrite any pack.
    """
    with contextlib.suppress(OSError):
        wanted = catalog_bytes(path)
        with_pack = wanted + wanted // 2 + pack_bytes  # The moves are a third transaction.
        if is_tight(path):
            return
        if free_bytes(path) >= _PLENTY * with_pack:
            _make(path, with_pack)
        else:
            _make(path, wanted)


def _make(path: Path, wanted: int) -> None:
    """Have a reserve of *wanted* bytes; OSError if there is no room for it."""
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


@contextmanager
def released(path: Path) -> Iterator[None]:
    """Where space is low, remove the reserve until the end of the block; then make it again.

    What was freed meanwhile goes into it first: all of it, or as much as there is.
    """
    held = 0
    if path.is_dir():
        with contextlib.suppress(OSError):
            held = (path / RESERVE).stat(follow_symlinks=False).st_size
        if is_tight(path) or free_bytes(path) < _PLENTY * held:
            with contextlib.suppress(OSError):
                (path / RESERVE).unlink()
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
