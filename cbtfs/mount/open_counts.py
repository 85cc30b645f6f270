"""The number of open files of each point, in memory that the workers of one mount share."""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.errors import CbtfsError

_SLOT = struct.Struct("<16sQ")
_SLOTS: Final = 4096
_FREE: Final = bytes(16)


class TooManyOpen(CbtfsError):
    """Raised when more points have open files than the mount can count."""

    errno = 23  # ENFILE


class OpenCounts:
    """Shared memory with the number of open files of each point. Create it before the forks.

    The counts are shared because the kernel may send the open and the release of one file to
    different workers. If a worker is killed after it has counted an open and before it replies, the
    count remains too high and the point remains leased until the mount ends.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("cbtfs mount", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, _SLOT.size * _SLOTS)
        self._memory = mmap.mmap(self._fd, _SLOT.size * _SLOTS)
        self._lock = threading.Lock()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # POSIX locks belong to a process: they exclude other workers, the lock excludes threads.
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def add(self, point: PointId) -> None:
        """Count one more open file of *point*."""
        with self._locked():
            offset = self._find(bytes.fromhex(point))
            if offset is None:
                offset = self._find(_FREE)
            if offset is None:
                raise TooManyOpen(
                    f"cannot open a file: {_SLOTS} points have open files already; close some"
                )
            _, count = _SLOT.unpack_from(self._memory, offset)
            _SLOT.pack_into(self._memory, offset, bytes.fromhex(point), count + 1)

    def remove(self, point: PointId) -> None:
        """Count one closed file of *point*."""
        with self._locked():
            offset = self._find(bytes.fromhex(point))
            if offset is None:
                return
            key, count = _SLOT.unpack_from(self._memory, offset)
            if count > 1:
                _SLOT.pack_into(self._memory, offset, key, count - 1)
            else:
                _SLOT.pack_into(self._memory, offset, _FREE, 0)

    def is_open(self, point: PointId) -> bool:
        """Return True if *point* has open files."""
        with self._locked():
            return self._find(bytes.fromhex(point)) is not None

    def points(self) -> set[PointId]:
        """Return the points that have open files."""
        with self._locked():
            keys = (key for key, _ in _SLOT.iter_unpack(self._memory[:]))
            return {PointId(key.hex()) for key in keys if key != _FREE}

    def _find(self, key: bytes) -> int | None:
        offset = self._memory.find(key)
        while offset >= 0 and offset % _SLOT.size:
            offset = self._memory.find(key, offset + 1)
        return offset if offset >= 0 else None
