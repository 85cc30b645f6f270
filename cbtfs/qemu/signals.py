"""The signals that end a command which serves disks."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def ending_signals() -> Iterator[socket.socket]:
    """Return a socket that receives a byte for each signal that ends the command."""
    ours, kernel = socket.socketpair()
    ours.setblocking(False)
    kernel.setblocking(False)

    def handle(number: int, frame: FrameType | None) -> Any:
        """Let the wakeup descriptor report the signal."""

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    descriptor = signal.set_wakeup_fd(kernel.fileno(), warn_on_full_buffer=False)
    try:
        for number, handler in before.items():
            # nohup ignores SIGHUP; a shell ignores SIGINT in background processes.
            if number == signal.SIGTERM or handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield ours
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        kernel.close()
