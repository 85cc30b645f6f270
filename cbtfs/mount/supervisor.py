"""The process above the workers: it starts them, replaces what dies, and ends the mount."""

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
"""How often a busy mount that shall end is looked at again."""
_FAULTS: Final = (DataCorrupt.exit_code, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)
"""How a process ends that maps a damaged catalog (cli/options/context)."""
_END_SECONDS: Final = 5.0
"""What a worker may take to end once the file system is unmounted."""


class Work(Protocol):
    """What a worker does, in its process; it tells *report* that it is ready, or why it is not."""

    def __call__(self, report: int, is_suspect: bool) -> None: ...


@dataclass(slots=True)
class _Child:
    process: int
    heard: bytes = b""
    is_probe: bool = False

    @property
    def is_ready(self) -> bool:
        return READY in self.heard


class Supervisor:
    """Keeps *count* workers running until the file system at *place* is unmounted.

    *work* is told whether the catalog is suspect: a worker before it ended by a fault.
    A pipe from each child tells what it reports, and by its end that the child has.
    """

    def __init__(
        self, place: Path, count: int, work: Work, on_death: Callable[[], None] = lambda: None
    ) -> None:
        """*on_death* is called for each worker that died while the mount was served."""
        self._place = place
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
        self._complaint = ""

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until unmounted; *ready* is called once the root can be listed.

        Raises what kept the workers from starting, or MountFailed if they keep dying.
        """
        self._watch_signals()
        try:
            for _ in range(self._count):
                self._start(partial(self._work, is_suspect=False))
            while self._children:
                self._step(ready)
        finally:
            for child in self._children.values():
                os.kill(child.process, signal.SIGKILL)
                os.waitpid(child.process, 0)

    def _watch_signals(self) -> None:
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        for each in IGNORED:
            # nohup has SIGHUP ignored, a shell has SIGINT for what it runs in the background.
            if each == signal.SIGTERM or signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ)

    def _start(self, run: Callable[[int], None], *, is_probe: bool = False) -> None:
        heard, report = os.pipe()
        process = fork(run, report)
        os.close(report)
        self._children[heard] = _Child(process, is_probe=is_probe)
        self._selector.register(heard, selectors.EVENT_READ)

    def _step(self, ready: Callable[[], None]) -> None:
        timeout = _END_SECONDS if self._is_unmounted else _RETRY_SECONDS
        is_waiting = self._is_ending or self._is_unmounted
        events = self._selector.select(timeout if is_waiting else None)
        if not events and self._is_unmounted:
            log.warning("ending workers that did not end with the mount")
            for child in self._children.values():
                os.kill(child.process, signal.SIGKILL)
        for key, _ in events:
            if key.fileobj is self._signals:
                self._signals.recv(64)
                self._is_ending = True
                notify("STOPPING=1")
                self._complaint = ""
            else:
                self._hear(key.fd, ready)
        if self._is_ending and not self._is_unmounted:
            self._try_unmount()

    def _try_unmount(self) -> None:
        try:
            unmount(self._place)
            self._is_unmounted = True
        except Busy as exc:
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                notify(f"STATUS={exc}")
                log.warning("%s; the mount stays until then", exc)

    def _hear(self, fd: int, ready: Callable[[], None]) -> None:
        child = self._children[fd]
        data = os.read(fd, 4096)
        if data:
            child.heard += data
            if not self.is_serving and all(c.is_ready for c in self._children.values()):
                self._start(lambda _: _list(self._place), is_probe=True)
            return
        self._selector.unregister(fd)
        os.close(fd)
        del self._children[fd]
        _, status = os.waitpid(child.process, 0)
        code = os.waitstatus_to_exitcode(status)
        if child.is_probe and code == 0:
            self.is_serving = True
            ready()
        elif code == 0:
            self._is_unmounted = True
        elif not self._is_unmounted:
            self._replace(child, code)

    def _replace(self, child: _Child, code: int) -> None:
        why = parse_error(child.heard) or MountFailed(_words(code))
        if not self.is_serving:
            raise why
        self._on_death()  # what it was reading failed, and nobody else counts that
        self._deaths.append(time.monotonic())
        is_many = len(self._deaths) == _MAX_DEATHS
        if is_many and self._deaths[-1] - self._deaths[0] <= _DEATHS_SECONDS:
            raise _given_up(self._place, why)
        log.error("worker %d ended (%s): another takes its place", child.process, why)
        self._start(
            partial(self._work, is_suspect=code in _FAULTS and not parse_error(child.heard))
        )


def _list(place: Path) -> None:
    os.listdir(place)


def _words(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _given_up(place: Path, why: CbtfsError) -> MountFailed:
    return MountFailed(
        f"the workers of {place} keep dying, the last one so: {why}; nothing answers there until "
        "you run 'cbtfs umount' or 'cbtfs mount' on it"
    )
