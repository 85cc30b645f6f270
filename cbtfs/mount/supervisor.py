"""The process that starts the workers of a mount, replaces dead ones and ends the mount."""

import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from cbtfs.errors import CbtfsError, DataCorrupt, MountFailed
from cbtfs.mount.mountpoint import Busy, unmount
from cbtfs.mount.notify import notify
from cbtfs.mount.readiness_pipe import READY, parse_error
from cbtfs.mount.worker import IGNORED, fork

log = logging.getLogger(__name__)

_MAX_DEATHS: Final = 5
_DEATHS_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1.0
"""Interval of attempts to unmount a busy mount."""
_FAULT_CODES: Final = (DataCorrupt.exit_code, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)
"""Exit codes of a process that has mapped a damaged catalog (cli/options/context)."""
_EXIT_SECONDS: Final = 5.0
"""Time that workers have to exit after the file system is unmounted."""


class Work(Protocol):
    """Run a worker in the calling process; report readiness or an error to *report*."""

    def __call__(self, report: int, is_suspect: bool) -> None: ...


@dataclass(slots=True)
class _Child:
    process: int
    output: bytes = b""
    is_probe: bool = False

    @property
    def is_ready(self) -> bool:
        return READY in self.output


class Supervisor:
    """Keep *count* workers running until the file system at *mountpoint* is unmounted.

    The argument is_suspect of *work* is True if the previous worker died of a fault. Each child has
    a pipe to the supervisor: it transports reports, and its end means that the child has exited.
    """

    def __init__(
        self, mountpoint: Path, count: int, work: Work, on_death: Callable[[], None] = lambda: None
    ) -> None:
        """*on_death* is called for each worker that dies while the mount is in service."""
        self._mountpoint = mountpoint
        self._count = count
        self._work = work
        self._on_death = on_death
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        self._deaths: deque[float] = deque(maxlen=_MAX_DEATHS)
        self.is_serving = False
        self._is_ending = False
        self._is_unmounted = False
        self._busy_message = ""

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until the file system is unmounted. Call *on_ready* once the root can be listed.

        Raises:
            CbtfsError: a worker could not start; the error is its own.
            MountFailed: workers die repeatedly.
        """
        self._watch_signals()
        try:
            for _ in range(self._count):
                self._start(partial(self._work, is_suspect=False))
            while self._children:
                self._step(on_ready)
        finally:
            for child in self._children.values():
                os.kill(child.process, signal.SIGKILL)
                os.waitpid(child.process, 0)

    def _watch_signals(self) -> None:
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        for number in IGNORED:
            # nohup ignores SIGHUP; a shell ignores SIGINT in background processes.
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ)

    def _start(self, run: Callable[[int], None], *, is_probe: bool = False) -> None:
        read_end, write_end = os.pipe()
        process = fork(run, write_end)
        os.close(write_end)
        self._children[read_end] = _Child(process, is_probe=is_probe)
        self._selector.register(read_end, selectors.EVENT_READ)

    def _step(self, on_ready: Callable[[], None]) -> None:
        timeout = _EXIT_SECONDS if self._is_unmounted else _RETRY_SECONDS
        is_waiting = self._is_ending or self._is_unmounted
        events = self._selector.select(timeout if is_waiting else None)
        if not events and self._is_unmounted:
            log.warning("killing workers that did not exit after the unmount")
            for child in self._children.values():
                os.kill(child.process, signal.SIGKILL)
        for key, _ in events:
            if key.fileobj is self._signals:
                self._signals.recv(64)
                self._is_ending = True
                notify("STOPPING=1")
                self._busy_message = ""
            else:
                self._read_report(key.fd, on_ready)
        if self._is_ending and not self._is_unmounted:
            self._try_unmount()

    def _try_unmount(self) -> None:
        try:
            unmount(self._mountpoint)
            self._is_unmounted = True
        except Busy as exc:
            if str(exc) != self._busy_message:
                self._busy_message = str(exc)
                notify(f"STATUS={exc}")
                log.warning("%s; the mount remains until then", exc)

    def _read_report(self, fd: int, on_ready: Callable[[], None]) -> None:
        child = self._children[fd]
        data = os.read(fd, 4096)
        if data:
            child.output += data
            if not self.is_serving and all(c.is_ready for c in self._children.values()):
                self._start(lambda _: _list_root(self._mountpoint), is_probe=True)
            return
        self._selector.unregister(fd)
        os.close(fd)
        del self._children[fd]
        _, status = os.waitpid(child.process, 0)
        code = os.waitstatus_to_exitcode(status)
        if child.is_probe and code == 0:
            self.is_serving = True
            on_ready()
        elif code == 0:
            self._is_unmounted = True
        elif not self._is_unmounted:
            self._replace(child, code)

    def _replace(self, child: _Child, code: int) -> None:
        reason = parse_error(child.output) or MountFailed(_describe_exit(code))
        if not self.is_serving:
            raise reason
        self._on_death()  # its pending reads fail, and no other process counts them
        self._deaths.append(time.monotonic())
        has_many = len(self._deaths) == _MAX_DEATHS
        if has_many and self._deaths[-1] - self._deaths[0] <= _DEATHS_SECONDS:
            raise _repeated_deaths(self._mountpoint, reason)
        log.error("worker %d ended (%s): starting another one", child.process, reason)
        self._start(
            partial(self._work, is_suspect=code in _FAULT_CODES and not parse_error(child.output))
        )


def _list_root(mountpoint: Path) -> None:
    os.listdir(mountpoint)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _repeated_deaths(mountpoint: Path, reason: CbtfsError) -> MountFailed:
    return MountFailed(
        f"the mount at {mountpoint} ended because its workers died repeatedly, most recently: "
        f"{reason}; run 'cbtfs umount' or 'cbtfs mount' on {mountpoint}"
    )
