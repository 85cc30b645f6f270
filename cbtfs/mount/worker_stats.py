"""Statistics of the workers of one mount, in memory that all of them share."""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_HEAD = struct.Struct("<QQ")
"""Number of errors of all workers, including dead ones; number of workers ever started."""
_SLOT = struct.Struct("<QQQ")
"""Process id, number of errors, size of the cache in bytes."""
_SLOTS: Final = 128


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Statistics of one running worker."""

    process: int
    errors: int
    """Number of reads that failed because of damage or a failing disk."""
    cached_bytes: int


class WorkerStats:
    """Shared memory with a slot for each worker. Create it before the workers are forked."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("cbtfs status", os.MFD_CLOEXEC)
        size = _HEAD.size + _SLOTS * _SLOT.size
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        self._lock = threading.Lock()
        self._offset: int | None = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def register(self) -> None:
        """Take the slot of a dead worker, or a free one, for the calling process."""
        with self._locked():
            errors, started = _HEAD.unpack_from(self._memory)
            _HEAD.pack_into(self._memory, 0, errors, started + 1)
            for offset, slot in self._slots():
                if not _is_running(slot[0]):
                    self._offset = offset
                    _SLOT.pack_into(self._memory, offset, os.getpid(), 0, 0)
                    return

    def _slots(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        for number in range(_SLOTS):
            offset = _HEAD.size + number * _SLOT.size
            yield offset, _SLOT.unpack_from(self._memory, offset)

    def count_error(self) -> None:
        """Count a failed read, for all workers and for the calling process."""
        with self._locked():
            errors, started = _HEAD.unpack_from(self._memory)
            _HEAD.pack_into(self._memory, 0, errors + 1, started)
            if self._offset is not None:
                process, own_errors, cached = _SLOT.unpack_from(self._memory, self._offset)
                _SLOT.pack_into(self._memory, self._offset, process, own_errors + 1, cached)

    def update(self, cached_bytes: int) -> None:
        """Publish the size of the calling process's cache."""
        if self._offset is not None:
            with self._locked():
                process, errors, _ = _SLOT.unpack_from(self._memory, self._offset)
                _SLOT.pack_into(self._memory, self._offset, process, errors, cached_bytes)

    @property
    def errors(self) -> int:
        """Number of failed reads of all workers, including dead ones."""
        return int(_HEAD.unpack_from(self._memory)[0])

    @property
    def started(self) -> int:
        """Number of workers ever started."""
        return int(_HEAD.unpack_from(self._memory)[1])

    def workers(self) -> list[WorkerStatus]:
        """Return the statistics of the running workers."""
        return [WorkerStatus(*slot) for _, slot in self._slots() if _is_running(slot[0])]


def _is_running(process: int) -> bool:
    if not process:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
