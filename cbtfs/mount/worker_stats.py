"""What the workers of one mount tell each other of themselves."""

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
"""Errors of all workers, those that ended too; workers that ever started."""
_SLOT = struct.Struct("<QQQ")
"""Process, errors, bytes that its cache holds."""
_SLOTS: Final = 128


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker that runs."""

    process: int
    errors: int
    """ReadFallback that failed for damage or a failing disk."""
    cached_bytes: int


class WorkerStats:
    """Memory that is made before the workers are forked; each has a line of its own."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("cbtfs status", os.MFD_CLOEXEC)
        size = _HEAD.size + _SLOTS * _SLOT.size
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        self._lock = threading.Lock()
        self._at: int | None = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def join(self) -> None:
        """Have a line for the calling process, in the place of one that ended."""
        with self._locked():
            errors, joined = _HEAD.unpack_from(self._memory)
            _HEAD.pack_into(self._memory, 0, errors, joined + 1)
            for at, slot in self._slots():
                if not _runs(slot[0]):
                    self._at = at
                    _SLOT.pack_into(self._memory, at, os.getpid(), 0, 0)
                    return

    def _slots(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        for number in range(_SLOTS):
            at = _HEAD.size + number * _SLOT.size
            yield at, _SLOT.unpack_from(self._memory, at)

    def count_error(self) -> None:
        """Count a read of this process that failed."""
        with self._locked():
            errors, joined = _HEAD.unpack_from(self._memory)
            _HEAD.pack_into(self._memory, 0, errors + 1, joined)
            if self._at is not None:
                process, mine, cached = _SLOT.unpack_from(self._memory, self._at)
                _SLOT.pack_into(self._memory, self._at, process, mine + 1, cached)

    def tell(self, cached_bytes: int) -> None:
        """Note what this process holds."""
        if self._at is not None:
            with self._locked():
                process, errors, _ = _SLOT.unpack_from(self._memory, self._at)
                _SLOT.pack_into(self._memory, self._at, process, errors, cached_bytes)

    @property
    def errors(self) -> int:
        return int(_HEAD.unpack_from(self._memory)[0])

    @property
    def started(self) -> int:
        """Workers that ever were."""
        return int(_HEAD.unpack_from(self._memory)[1])

    def workers(self) -> list[WorkerStatus]:
        """Those that run."""
        return [WorkerStatus(*slot) for _, slot in self._slots() if _runs(slot[0])]


def _runs(process: int) -> bool:
    if not process:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
