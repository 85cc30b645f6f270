"""A directory of a repository, opened once: later changes of its path cannot redirect access.

All access goes through the descriptor, by its name in /proc/self/fd (proc(5)). The path of the
directory may change after it was opened. Below the directory, only the last component of a path is
ever looked up.
"""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

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
    """An open directory, until close() or the end of its `with` block."""

    def __init__(self, path: Path, shown: Path | None = None, *, follows: bool = False) -> None:
        """Open the directory at *path*, called *shown* in messages. A link is refused.

        *follows*: the last part of *path* may be a link.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            AccessDenied: this user may not open it.
            OutOfResources: a limit of this process is met.
            DataCorrupt: it is a symbolic link or not a directory.
            StoreFailed: the storage refused to open it.
        """
        self._fd = -1
        self._opened = path
        self._flags = _OPEN & ~os.O_NOFOLLOW if follows else _OPEN
        self.path = shown or path
        """Path for messages."""
        self._fd = self._open()

    def _open(self) -> int:
        try:
            return os.open(self._opened, self._flags)
        except OSError as exc:
            refuse_denied(exc, self.path)
            refuse_shortage(exc, f"cannot open {self.path}")
            if isinstance(exc, FileNotFoundError):
                raise
            if exc.errno not in _NO_DIRECTORY:
                raise StoreFailed(f"cannot open {self.path}: {exc.strerror}") from exc
            kind = "a symbolic link" if os.path.islink(self._opened) else "not a directory"
            raise DataCorrupt(
                f"{self.path} is {kind}; a repository needs a directory here: move the directory "
                "itself to this path, or bind-mount it"
            ) from exc

    @property
    def at(self) -> Path:
        """Path to the open directory, valid in this process until close()."""
        if self._fd < 0:
            raise RuntimeError(f"{self.path} is closed")
        return Path(f"/proc/self/fd/{self._fd}")

    @property
    def is_closed(self) -> bool:
        return self._fd < 0

    def inner(self, name: str) -> "Folder":
        """Open a directory in this one; raises what the constructor raises."""
        return Folder(self.at / name, self.path / name)

    def reopen(self) -> bool:
        """Switch to the directory that is at the path now; False if there is no other one.

        A directory without the marker of this one is refused: its file system may not be mounted.
        """
        if self._fd < 0:
            return False
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

    def close(self) -> None:
        """Close the directory; a second call does nothing.

        A traceback keeps the objects of its frames, so owners call this instead of relying on
        garbage collection.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _marker(fd: int) -> bytes | None:
    """Return the bytes of the marker in an open directory; None if it cannot be read."""
    try:
        return load_file(Path(f"/proc/self/fd/{fd}") / MARKER, MAX_MARKER_BYTES)
    except (OSError, CbtfsError):
        return None


def open_folder(path: Path) -> Folder:
    """Open points/ or packs/ of a repository; DataCorrupt if it does not exist."""
    try:
        return Folder(path)
    except FileNotFoundError as exc:
        raise DataCorrupt(f"{path} is missing: is its file system mounted?") from exc
