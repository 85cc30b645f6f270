"""A directory of a repository, opened once: what is done below it cannot be led elsewhere.

Everything goes through the descriptor, by the kernel's name for it in /proc/self/fd (proc(5)). So
it does not matter what becomes of the path after the directory was opened, and nothing but the
last name of a path is ever looked up below it.
"""

import errno
import os
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, DataCorrupt, StoreFailed
from cbtfs.shortage import refuse_shortage
from cbtfs.store.files import load_file
from cbtfs.store.owner import refuse_denied

MARKER: Final = "marker.json"
"""File in points/ and packs/ that names the repository (store/directories.py)."""
MAX_MARKER_BYTES: Final = 1 << 16

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY: Final = (errno.ELOOP, errno.ENOTDIR)


class Folder:
    """An open directory; its descriptor is closed when nobody refers to it."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        """Open the directory at *path*, called *shown* in messages.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            AccessDenied: this user may not open it.
            OutOfResources: a limit of this process is met.
            DataCorrupt: it is a symbolic link or anything else but a directory.
            StoreFailed: the storage refused to open it.
        """
        self._fd = -1
        self._opened = path
        self.path = shown or path
        """As the user knows it."""
        self._fd = self._open()

    def _open(self) -> int:
        try:
            return os.open(self._opened, _OPEN)
        except OSError as exc:
            refuse_denied(exc, self.path)
            refuse_shortage(exc, f"cannot open {self.path}")
            if isinstance(exc, FileNotFoundError):
                raise
            if exc.errno not in _NO_DIRECTORY:
                raise StoreFailed(f"cannot open {self.path}: {exc.strerror}") from exc
            kind = "a symbolic link" if os.path.islink(self._opened) else "no directory"
            raise DataCorrupt(
                f"{self.path} is {kind}, which no directory of a repository may be: move the "
                "directory itself there, or bind-mount it"
            ) from exc

    @property
    def at(self) -> Path:
        """A path to the open directory, for names below it; it is good in this process alone."""
        return Path(f"/proc/self/fd/{self._fd}")

    def inner(self, name: str) -> "Folder":
        """Open a directory in this one; raises what the constructor raises."""
        return Folder(self.at / name, self.path / name)

    def reopen(self) -> bool:
        """Open the directory that is at the path now; False if it is this one, or none is.

        One without the marker of this one is not taken: its file system may not be mounted.
        """
        try:
            fd = self._open()
        except (OSError, CbtfsError):
            return False
        if os.path.sameopenfile(fd, self._fd) or _marker(self._fd) not in (None, _marker(fd)):
            os.close(fd)
            return False
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        return True

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _marker(fd: int) -> bytes | None:
    """The bytes of the marker in an open directory; None without one that can be read."""
    try:
        return load_file(Path(f"/proc/self/fd/{fd}") / MARKER, MAX_MARKER_BYTES)
    except (OSError, CbtfsError):
        return None


def open_folder(path: Path) -> Folder:
    """Open points/ or packs/ of a repository; DataCorrupt if it is not there."""
    try:
        return Folder(path)
    except FileNotFoundError as exc:
        raise DataCorrupt(f"{path} is missing: is its file system mounted?") from exc
