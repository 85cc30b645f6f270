"""Time limits of tests, and the marker of tests that mount: pytest's side of the watchdog.

pytest runs below a process that ends a test beyond its limit (tests/watchdog/keeper), in a mount
namespace of its own. Without the right to have one, as a user that is not root, mounts are not
watched.
"""

import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from tests.watchdog import machine
from tests.watchdog.keeper import DUMP, INTERRUPT, Board, Keeper

_LIMIT: Final = 300.0
"""Seconds for a test, with its fixtures: many times what one takes, as machines are shared."""
_GRACE: Final = 20.0
"""Seconds for the cleaning up of a test that was interrupted."""


class TimeLimitExceeded(BaseException):
    """The test runs longer than it may. Not an Exception, as nothing under test may catch it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for the time limits."""
    group = parser.getgroup("watchdog")
    group.addoption(
        "--limit", type=float, default=_LIMIT, help="seconds that a test may take; 0: any number"
    )
    group.addoption(
        "--grace", type=float, default=_GRACE, help="seconds for cleaning up after that"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "limit(seconds): the test may take that long")
    config.addinivalue_line("markers", "mounts: the test mounts, or makes mount namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Fork: the parent becomes the keeper and never returns, the child runs the tests."""
    if config.option.collectonly or config.option.help or config.option.version:
        return
    has_own_mounts = machine.have_own_mounts()
    machine.adopt_orphans()
    board = Board()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        near.close()
        code = 70
        try:
            code = Keeper(child, far, board, config.option.grace, has_own_mounts).run()
        finally:
            if sys.exc_info()[0] is not None:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    far.close()
    machine.end_with_parent()
    limit = 0.0 if config.option.usepdb else config.option.limit
    config.pluginmanager.register(_Limits(near, board, limit), "watchdog-limits")
    if has_own_mounts:
        config.pluginmanager.register(_Mounts(), "watchdog-mounts")


class _Limits:
    """Reports tests to the keeper; makes its interrupts failures of the test."""

    def __init__(self, channel: socket.socket, board: Board, limit: float) -> None:
        self._channel = channel
        self._board = board
        self._limit = limit
        self._number = 0
        self._name = ""
        self._seconds = 0.0
        self._is_in_phase = False
        self._is_late = False
        self._stacks = os.memfd_create("stacks")
        faulthandler.register(DUMP, os.fdopen(os.dup(self._stacks), "w"), all_threads=True)
        signal.signal(INTERRUPT, self._interrupt)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tell the keeper when a test begins and when it has ended."""
        self._number += 1
        self._name = item.nodeid
        marker = item.get_closest_marker("limit")
        self._seconds = marker.args[0] if marker is not None and self._limit else self._limit
        self._is_late = False
        self._send({"start": self._number, "name": self._name, "limit": self._seconds})
        try:
            return (yield)
        finally:
            self._send({"end": self._number})
            with contextlib.suppress(OSError):
                self._channel.recv(16)  # Wait, so that the keeper ends nothing of the next test.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None]:
        """The keeper may interrupt here."""
        with self._phase():
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None]:
        """The keeper may interrupt here."""
        with self._phase():
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None]:
        """The keeper may interrupt here."""
        with self._phase():
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A phase that was interrupted has failed, whatever the test made of the interrupt."""
        report = yield
        if self._board.expired == self._number and not self._is_late:
            self._is_late = True
            words = self._words()
            before = "" if report.longrepr is None else f"\n\n{report.longreprtext}"
            report.outcome = "failed"
            report.longrepr = words + before
            report.sections.append(("stacks at the time limit", self._read_stacks()))
        return report

    def _words(self) -> str:
        return f"{self._name} exceeded its time limit of {self._seconds:g} s"

    @contextlib.contextmanager
    def _phase(self) -> Iterator[None]:
        self._is_in_phase = True
        try:
            yield
        finally:
            self._is_in_phase = False

    def _interrupt(self, number: int, frame: object) -> None:
        if self._is_in_phase and self._board.is_pending:
            self._board.take()
            raise TimeLimitExceeded(self._words())

    def _send(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps(message).encode())

    def _read_stacks(self) -> str:
        with os.fdopen(os.dup(self._stacks), "rb") as file:
            file.seek(0)
            text = file.read()
        os.ftruncate(self._stacks, 0)
        os.lseek(self._stacks, 0, os.SEEK_SET)
        return text.decode(errors="replace")


class _Mounts:
    """Fails a test that mounts, or runs unshare(1), without the marker `mounts`."""

    def __init__(self) -> None:
        self._table = open("/proc/self/mountinfo", "rb")  # noqa: SIM115
        self._poll = select.poll()
        self._poll.register(self._table, select.POLLPRI)
        self._is_changed()
        self._has_namespace = False
        sys.addaudithook(self._hear)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hold the whole test, with the fixtures that it set up or ended, to its marker."""
        report = yield
        if call.when != "teardown":
            return report
        has_mounted = self._is_changed() or self._has_namespace
        self._has_namespace = False
        if has_mounted and item.get_closest_marker("mounts") is None:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} mounts and has no marker 'mounts'"
        return report

    def _is_changed(self) -> bool:
        """Whether this mount namespace has changed since the last call; see poll in proc(5)."""
        return bool(self._poll.poll(0))

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and isinstance(arguments[1], list | tuple):
            self._has_namespace |= any("unshare" in str(word) for word in arguments[1])
