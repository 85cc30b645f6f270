"""The lock that admits one writer to a repository and names its holder."""

import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Final

from cbtfs.errors import RepositoryLocked
from cbtfs.store.files import FILE_MODE, open_regular
from cbtfs.store.holder import describe_self, parse_holder
from cbtfs.store.owner import give_new

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.05
_MAX_HOLDER_BYTES: Final = 4096


class WriterLock:
    """An exclusive flock on one file, which the kernel releases when the process ends.

    The file names the holder. A holder that ends cleanly empties the file. So a file that is not
    empty when the lock is taken shows that the last writer did not end cleanly.
    """

    def __init__(self, path: Path, wait_seconds: float = 0.0) -> None:
        """Take the lock; RepositoryLocked, with the holder, if that takes over *wait_seconds*."""
        self._fd = open_lock(path)
        try:
            self._take(wait_seconds)
            text = os.pread(self._fd, _MAX_HOLDER_BYTES, 0)
            self.was_left_behind = bool(text)
            self.left_by = parse_holder(text)
            """Last holder, if it did not end cleanly and its record can be read."""
            self._write(describe_self())
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        is_reported = False
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RepositoryLocked(
                        f"the repository is locked by {_holder(self._fd)}: "
                        "wait until it ends, or use --lock-wait SECONDS"
                    ) from None
                if not is_reported:
                    is_reported = True
                    holder = _holder(self._fd)
                    log.warning("waiting for %s, at most %.0f s", holder, wait_seconds)
            time.sleep(min(_POLL_SECONDS, left))

    def _write(self, text: bytes) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self, *, is_clean: bool) -> None:
        """Release the lock; *is_clean* states that the catalog needs no verification.

        A second call does nothing.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if is_clean:
                os.ftruncate(fd, 0)
        except OSError:
            """The next writer verifies the catalog without need."""
        finally:
            os.close(fd)


def open_lock(path: Path) -> int:
    """Open the file of a lock; create it if it does not exist."""
    try:
        return open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, FILE_MODE)
        give_new(path, fd)
        return fd


def _holder(fd: int) -> str:
    holder = parse_holder(os.pread(fd, _MAX_HOLDER_BYTES, 0))
    return "another process" if holder is None else str(holder)
