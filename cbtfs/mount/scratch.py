"""Temporary directories of one command, which may have a mount; a later command removes leftovers.

A directory is locked as long as its command runs. One without a lock and without a mount that
answers is what a killed command has left.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from cbtfs.mount.mountpoint import is_dead, unmount
from cbtfs.mount.mounts import mounts

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """Make a directory whose name begins with *prefix*; remove it at the end of the block.

    Directories of killed commands with that prefix are removed first.
    """
    remove_stale(prefix)
    path, lock = _locked_directory(prefix)
    try:
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _locked_directory(prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        with suppress(OSError):  # Another command took it for a leftover before it was locked.
            lock = os.open(path, _FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return path, lock
            except OSError:
                pass
            os.close(lock)


def remove_stale(prefix: str) -> None:
    """Remove the directories with *prefix* of killed commands of this user, and their dead mounts.

    Directories that cannot be removed remain.
    """
    parent = tempfile.gettempdir()
    mounted = {mount.path for mount in mounts() if mount.is_ours}
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(prefix):
                path = Path(parent, name)
                with suppress(OSError, CbtfsError):
                    if str(path) not in mounted or _unmount_dead(path):
                        _remove_unlocked(path)


def _unmount_dead(path: Path) -> bool:
    """Unmount a mount whose process has ended; return False if it answers."""
    if not is_dead(path):
        return False
    unmount(path, is_lazy=True)
    return True


def _remove_unlocked(path: Path) -> None:
    lock = os.open(path, _FLAGS)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    """Remove a directory; one with a mount that is still in use stays."""
    if not any(mount.path == str(path) for mount in mounts()):
        shutil.rmtree(path, ignore_errors=True)
