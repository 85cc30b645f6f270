"""Turns of the writers of one host at their common catalog, in a repository with shared writers.

A turn lasts for one transaction. locks/catalog names the process that has it. The file is emptied
at the end of a turn, so text in it shows that a process died within one: the next process then
verifies the catalog.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.store.catalog.turn import Turn
from cbtfs.store.holder import describe_self, parse_holder
from cbtfs.store.lock import open_lock

log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 10.0
"""Wait after which the process that has the turn is reported."""
_FIRST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.05
_MAX_HOLDER_BYTES: Final = 4096


class Turns:
    """The lock of one catalog. Safe to use from several threads; a thread may nest its turns."""

    def __init__(self, path: Path) -> None:
        """*path* is the lock's file, whose directory exists."""
        self._path = path
        self._fd = -1
        self._thread = threading.RLock()
        self._depth = 0
        self._turn = Turn(is_unsure=False)

    def close(self) -> None:
        """Close the file."""
        with self._thread:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    @contextmanager
    def held(self) -> Iterator[Turn]:
        """Wait for the turn and keep it until the end of the block."""
        with self._thread:
            if self._depth == 0:
                self._take()
            self._depth += 1
            try:
                yield self._turn
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._give()

    def _take(self) -> None:
        if self._fd < 0:
            self._fd = open_lock(self._path)
        self._wait()
        text = os.pread(self._fd, _MAX_HOLDER_BYTES, 0)
        self._turn = Turn(is_unsure=bool(text))
        os.pwrite(self._fd, describe_self().ljust(len(text)), 0)

    def _wait(self) -> None:
        due = time.monotonic() + _REPORT_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while time.monotonic() < due:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                return
        holder = parse_holder(os.pread(self._fd, _MAX_HOLDER_BYTES, 0))
        log.warning("waiting for the catalog, in use by %s", holder or "another process")
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _give(self) -> None:
        try:
            if not self._turn.is_unsure:
                os.ftruncate(self._fd, 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
