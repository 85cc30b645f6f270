"""The process above pytest: ends a test that exceeds its time limit, with all that it started.

It is a separate process, because a test may hang while it holds the GIL, or in the kernel. It is
the parent of pytest, so that every process of the session is its descendant, even if the parent of
that process has ended. It only ends its descendants, and processes and mounts in the session's own
mount namespace.

A test that exceeds its limit is ended in three steps, each after a period of grace:

1. pytest's main thread is interrupted; processes and FUSE mounts younger than the test end.
2. The same again, now with everything that the session started, say a server for many tests.
3. pytest is killed. The message names the test.
"""

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from tests.watchdog import machine

DUMP: Final = signal.SIGRTMIN + 7
"""pytest writes the stacks of its threads."""
INTERRUPT: Final = signal.SIGRTMIN + 8
"""pytest raises TimeLimitExceeded in its main thread."""
_AGAIN_SECONDS: Final = 0.2
"""How often an interrupt is sent until it is taken: one that arrives just before the interpreter
waits for a lock is not noticed."""
_ROUNDS: Final = 20
"""How often processes are looked for while they still start others."""


class Board:
    """Memory that keeper and pytest share: which test shall end, and whether pytest has heard."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24)

    @property
    def expired(self) -> int:
        """The number of the test that exceeded its limit last."""
        return self._get(0)

    @property
    def is_pending(self) -> bool:
        """Whether the keeper wants an interrupt that pytest has not taken."""
        return self._get(8) != self._get(16)

    def expire(self, test: int) -> None:
        """The keeper wants the test of that number to be interrupted."""
        self._put(0, test)
        self._put(8, self._get(8) + 1)

    def take(self) -> None:
        """The interrupt is taken, or has become pointless."""
        self._put(16, self._get(8))

    def _get(self, offset: int) -> int:
        return int(struct.unpack_from("=Q", self._memory, offset)[0])

    def _put(self, offset: int, value: int) -> None:
        struct.pack_into("=Q", self._memory, offset, value)


@dataclass(slots=True)
class _Test:
    """The test that runs."""

    number: int
    name: str
    limit: float
    start: float
    mounts: frozenset[int]
    deadline: float | None
    steps: int = 0


@dataclass(slots=True)
class Keeper:
    """Watches the pytest that is process *pytest*, which reports to *channel*."""

    pytest: int
    channel: socket.socket
    board: Board
    grace: float
    has_own_mounts: bool
    _test: _Test | None = None
    _status: int | None = None
    _killed: str = ""
    _is_open: bool = True

    def run(self) -> int:
        """Watch until pytest has ended and end what it left; the exit code."""
        wakeup, notify = socket.socketpair()
        for end in (wakeup, notify):
            end.setblocking(False)
        signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest gets it from the terminal, too
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: self._send(number))
        self._reap()
        while self._status is None:
            channels = [self.channel, wakeup] if self._is_open else [wakeup]
            readable, _, _ = select.select(channels, [], [], self._timeout())
            if self.channel in readable:
                self._hear()
            if wakeup in readable:
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(4096)
            self._reap()
            if self._is_beyond_limit():
                self._expire()
            elif self.board.is_pending:
                self._send(INTERRUPT)
        return self._finish(self._status)

    def _timeout(self) -> float | None:
        if self._test is None or self._test.deadline is None:
            return None
        left = max(0.0, self._test.deadline - machine.now())
        return min(left, _AGAIN_SECONDS) if self.board.is_pending else left

    def _is_beyond_limit(self) -> bool:
        deadline = None if self._test is None else self._test.deadline
        return deadline is not None and deadline <= machine.now()

    def _hear(self) -> None:
        try:
            message = self.channel.recv(1 << 16)
        except ConnectionResetError:
            message = b""
        if not message:
            self._is_open = False  # pytest ends
            return
        event = json.loads(message)
        if "end" in event:
            if self._test is not None and self._test.steps:
                self._clear(self._test, is_all=self._test.steps > 1)
            self._test = None
            self.board.take()
            with contextlib.suppress(OSError):
                self.channel.send(b"ended")
            return
        start = machine.now()
        self._test = _Test(
            number=event["start"],
            name=event["name"],
            limit=event["limit"],
            start=start,
            mounts=frozenset(mount.id for mount in machine.mounts()),
            deadline=start + event["limit"] if event["limit"] else None,
        )

    def _expire(self) -> None:
        test = self._test
        assert test is not None
        test.steps += 1
        test.deadline = machine.now() + self.grace
        if test.steps > 2:
            self._killed = f"{test.name} exceeded its time limit of {test.limit:g} s and cannot end"
            self._send(signal.SIGKILL)
            return
        self.board.expire(test.number)
        self._send(DUMP)
        self._send(INTERRUPT)
        self._clear(test, is_all=test.steps > 1)

    def _clear(self, test: _Test, *, is_all: bool) -> None:
        """End processes and mounts younger than *test*, or all."""
        since = 0.0 if is_all else test.start
        before = machine.now()
        self._unmount(frozenset() if is_all else test.mounts, since)
        doomed: set[int] = set()
        for _ in range(_ROUNDS):
            processes = [
                process
                for process in machine.descendants(os.getpid())
                if process.pid != self.pytest
                and process.is_running
                and process.start >= since
                # pytest may start others meanwhile, to clean up
                and (process.start <= before or process.parent in doomed | {os.getpid()})
            ]
            if not processes:
                break
            doomed |= {process.pid for process in processes}
            machine.kill(processes)
            select.select([], [], [], 0.02)
            self._reap()

    def _unmount(self, before: frozenset[int], since: float) -> None:
        """Abort and detach FUSE mounts that are not among *before*.

        Processes that started *since* then may have others, in namespaces of their own.
        """
        if not self.has_own_mounts:
            return
        kept = {mount.minor for mount in machine.mounts() if mount.id in before and mount.is_fuse}
        ours = [mount for mount in machine.mounts() if mount.id not in before and mount.is_fuse]
        minors = {mount.minor for mount in ours}
        for process in machine.descendants(os.getpid()):
            if process.start >= since:
                minors |= {mount.minor for mount in machine.mounts(process.pid) if mount.is_fuse}
        machine.abort_fuse(minors - kept)
        for mount in reversed(ours):
            machine.detach(mount.place)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pytest:
                self._status = os.waitstatus_to_exitcode(status)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pytest, number)

    def _finish(self, status: int) -> int:
        left = [process for process in machine.descendants(os.getpid()) if process.is_running]
        names = [f"{process.pid} {machine.command(process.pid)}" for process in left]
        test = self._test or _Test(0, "no test", 0, 0, frozenset(), None)
        self._clear(test, is_all=True)
        if self._killed:
            _say(self._killed)
        elif status < 0:
            _say(f"pytest was killed by {signal.Signals(-status).name} during {test.name}")
        elif names:
            _say("processes that tests left running: " + "; ".join(names))
        return 128 - status if status < 0 else status


def _say(text: str) -> None:
    print(f"\nwatchdog: {text}", file=sys.stderr, flush=True)
