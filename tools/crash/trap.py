"""Traps on the system calls of a writer: one call kills the process, fails or writes too little.

For short-lived children only: the replaced functions are not restored.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

from cbtfs.store.catalog.environment import Environment
from tools.crash.child import Send

Action = Literal["kill", "EIO", "ENOSPC"]
"""`kill` ends the process before the call, or half-way through a write; others fail the call."""

CALLS: Final = (
    "fsync",
    "rename",
    "replace",
    "link",
    "unlink",
    "mkdir",
    "open",
    "writev",
    "write",
    "pwrite",
    "ftruncate",
    "posix_fallocate",
)
_write = os.write  # the original, before a trap replaces it
_ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class Trap:
    """A counter of calls that triggers at call number *at*, counted from 0.

    With *name*, only calls of that name count. Consecutive opens of directories count as one call,
    because a scan of packs/ opens up to 256.
    """

    def __init__(self, at: int, action: Action, name: str | None = None) -> None:
        self._left = at
        self._name = name
        self._action = action
        self._lock = threading.Lock()
        self._is_scanning = False

    def install(self, send: Send) -> None:
        """Replace the counted functions; send the name of the call before the trap triggers."""
        self._send = send
        for name in CALLS:
            setattr(os, name, self._guarded(name, getattr(os, name)))
        if self._action == "kill":
            commit = self._guarded("catalog", Environment.write)
            Environment.write = lambda *args: commit(*args)  # type: ignore[method-assign]

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if self._name not in (None, name):
                return real(*args, **named)
            with self._lock:
                is_scan = name == "open" and len(args) > 1 and bool(args[1] & os.O_DIRECTORY)
                is_repeated = is_scan and self._is_scanning
                self._is_scanning = is_scan
                is_mine = self._left == 0 and not is_repeated
                self._left -= not is_repeated
            if is_mine:
                self._trigger(name, args)
            return real(*args, **named)

        return call

    def _trigger(self, name: str, args: tuple[Any, ...]) -> None:
        self._send({"triggered": name})
        if self._action in _ERRORS:
            code = _ERRORS[self._action]
            raise OSError(code, os.strerror(code))
        if name == "writev":
            data = b"".join(args[1])
            _write(args[0], data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def write_short(send: Send, limit: int = 100) -> None:
    """Limit every writev(2) to *limit* bytes: short writes are legal."""
    send({"limit": limit})
    real = os.writev

    def writev(fd: int, parts: Any) -> int:
        return real(fd, [memoryview(parts[0])[:limit]])

    os.writev = writev
