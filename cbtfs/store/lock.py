"""The lock that makes one writer of a repository, and says who that is."""

import fcntl
import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.errors import AccessDenied, RepositoryLocked
from cbtfs.store.files import FILE_MODE, open_regular

_POLL_SECONDS: Final = 0.05
_MAX_HOLDER_BYTES: Final = 4096


class WriterLock:
    """An exclusive flock on one file: it ends with the process that holds it, however that ends.

    While it is held the file names the holder; a holder that ends well empties the file. So a
    file that is not empty when the lock is taken tells that the last writer did not.
    """

    def __init__(self, path: Path, wait_seconds: float = 0.0) -> None:
        """RepositoryLocked, with the holder, if it cannot be had within *wait_seconds*."""
        self._fd = _open(path)
        try:
            self._take(wait_seconds)
            self.was_left_behind = bool(os.pread(self._fd, 1, 0))
            self._write(_self_description())
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RepositoryLocked(
                        f"the repository is locked by {_holder(self._fd)}: "
                        "wait for it to end, or give --lock-wait SECONDS"
                    ) from None
            time.sleep(min(_POLL_SECONDS, left))

    def _write(self, text: bytes) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self, *, is_clean: bool) -> None:
        """Let go; *is_clean* if the catalog is known to be as it should."""
        if is_clean:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _open(path: Path) -> int:
    try:
        return open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, FILE_MODE)
    except PermissionError as exc:
        raise AccessDenied(
            f"cannot open {path}: {exc.strerror}; be the repository's owner"
        ) from exc


def _self_description() -> bytes:
    description = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv)[:1000],
        "since": format_moment(datetime.now(UTC).replace(microsecond=0)),
    }
    return json.dumps(description).encode()


def _holder(fd: int) -> str:
    try:
        found = json.loads(os.pread(fd, _MAX_HOLDER_BYTES, 0))
        what = "process {pid} on {host} since {since} ({command})".format(**found)
    except (ValueError, KeyError, TypeError):
        return "another process"
    return printable(what)
