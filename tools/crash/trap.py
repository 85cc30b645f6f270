"""Traps on what a writer asks of the system: one call of it kills, fails or writes too little.

For a child that will end soon: what is replaced stays replaced.
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
"""End before the call, or in the middle of it where it writes; let the call fail."""

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
_write = os.write  # as it is before a trap is installed
_ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class Trap:
    """Counts calls from here on; springs at call number *at*, counted from 0."""

    def __init__(self, at: int, action: Action) -> None:
        self._left = at
        self._action = action
        self._lock = threading.Lock()

    def install(self, send: Send) -> None:
        """Replace what is counted; *send* which call it was, before the trap springs."""
        self._send = send
        for name in CALLS:
            setattr(os, name, self._guarded(name, getattr(os, name)))
        if self._action == "kill":
            commit = self._guarded("catalog", Environment.write)
            Environment.write = lambda *args: commit(*args)  # type: ignore[method-assign]

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            with self._lock:
                is_mine = self._left == 0
                self._left -= 1
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


def write_short(send: Send, most: int = 100) -> None:
    """Let every write take at most *most* bytes, as a system may."""
    send({"most": most})
    real = os.writev

    def writev(fd: int, parts: Any) -> int:
        return real(fd, [memoryview(parts[0])[:most]])

    os.writev = writev
