"""What the workers of one mount share: how many files each point has open."""

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
    """More points have open files than the mount can keep account of."""

    errno = 23  # ENFILE


class OpenCounts:
    """Memory that is made before the workers are forked.

    How many open files each point has is counted here, since open and release of one file come
    to any worker. A worker that is killed between the count and its reply leaves the count too
    high: then the point keeps its lease until the mount ends.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("cbtfs mount", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, _SLOT.size * _SLOTS)
        self._memory = mmap.mmap(self._fd, _SLOT.size * _SLOTS)
        self._lock = threading.Lock()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # POSIX locks are of a process: they hold between workers, the other lock within one.
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def add(self, point: PointId) -> None:
        """Count one more open file of *point*."""
        with self._locked():
            at = self._find(bytes.fromhex(point))
            if at is None:
                at = self._find(_FREE)
            if at is None:
                raise TooManyOpen(f"{_SLOTS} points have open files: close some")
            _, count = _SLOT.unpack_from(self._memory, at)
            _SLOT.pack_into(self._memory, at, bytes.fromhex(point), count + 1)

    def remove(self, point: PointId) -> None:
        """Count one open file of *point* less."""
        with self._locked():
            at = self._find(bytes.fromhex(point))
            if at is None:
                return
            key, count = _SLOT.unpack_from(self._memory, at)
            if count > 1:
                _SLOT.pack_into(self._memory, at, key, count - 1)
            else:
                _SLOT.pack_into(self._memory, at, _FREE, 0)

    def is_open(self, point: PointId) -> bool:
        """Whether *point* has open files."""
        with self._locked():
            return self._find(bytes.fromhex(point)) is not None

    def points(self) -> set[PointId]:
        """The points that have open files."""
        with self._locked():
            found = (key for key, _ in _SLOT.iter_unpack(self._memory[:]))
            return {PointId(key.hex()) for key in found if key != _FREE}

    def _find(self, key: bytes) -> int | None:
        at = self._memory.find(key)
        while at >= 0 and at % _SLOT.size:
            at = self._memory.find(key, at + 1)
        return at if at >= 0 else None
