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
"""Room is tight where less is free than so many times the reserve."""


def wanted_bytes(path: Path) -> int:
    """What the reserve of the repository at *path* should hold: room to rewrite its catalog."""
    try:
        catalog = (path / "catalog" / DATA).stat().st_size
    except OSError:
        catalog = 0
    return min(max(2 * catalog, _SMALLEST_BYTES), _LARGEST_BYTES)


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write where *path* is."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def is_tight(path: Path) -> bool:
    """Whether so little is free that a writer has to save room."""
    return free_bytes(path) < _TIGHT * wanted_bytes(path)


def keep(path: Path) -> None:
    """Have the reserve of the repository at *path*, unless room is tight."""
    with contextlib.suppress(OSError):
        if not is_tight(path):
            _make(path, wanted_bytes(path))


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
    """Where room is tight, let the reserve go until the end of the block; then have it again.

    What was freed meanwhile goes into it first: all of it, or as much as there is.
    """
    if path.is_dir() and is_tight(path):
        with contextlib.suppress(OSError):
            (path / RESERVE).unlink()
    try:
        yield
    finally:
        wanted = wanted_bytes(path)
        while wanted >= _LEAST_BYTES:
            try:
                if path.is_dir():
                    _make(path, wanted)
                break
            except OSError:
                wanted //= 2
