"""One worker process of a mount: it answers requests until the file system is unmounted."""

import ctypes
import fcntl
import os
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pyfuse3
import trio

from cbtfs.errors import CbtfsError
from cbtfs.mount import turns
from cbtfs.mount.board import Board
from cbtfs.mount.fuse import FileSystem
from cbtfs.mount.report import send_error, send_ready
from cbtfs.mount.served import Served
from cbtfs.mount.shared import Shared
from cbtfs.mount.status import MountFacts, ServedStatus
from cbtfs.store.repository import reading

_CLONE: Final = 0x8004E500  # FUSE_DEV_IOC_CLONE of linux/fuse.h
_SET_PDEATHSIG: Final = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_LEASE_SECONDS: Final = 1
"""How long a point may stay leased after its last file was closed through another worker."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that the supervising process alone acts on: a terminal sends them to all."""


@dataclass(frozen=True, slots=True)
class Session:
    """A mounted file system that waits for workers; made before they are forked."""

    repository: Path
    file_system: FileSystem
    fd: int
    """pyfuse3's descriptor of /dev/fuse."""
    shared: Shared
    is_alone: bool
    """Whether there is one worker only."""
    board: Board
    facts: MountFacts

    def work(self, report: int) -> None:
        """Answer requests, in a process of its own, until the file system is unmounted.

        The catalog is opened here: LMDB does not survive a fork.
        """
        self._clone()
        with reading(self.repository) as repository:
            served = ServedStatus(
                Served(repository, self.shared), repository, self.board, self.facts
            )
            turn: turns.Turn
            turn = turns.OnlyTurn() if self.is_alone else turns.SharedTurn(self.shared.open_turns())
            turns.install(turn.wait_readable)
            self.file_system.serve(served, turn)
            send_ready(report)
            trio.run(_serve, served)

    def _clone(self) -> None:
        """Have a queue of one's own: when this process dies, what it had read fails at once."""
        clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(clone, _CLONE, struct.pack("I", self.fd))
        os.dup2(clone, self.fd, inheritable=False)
        os.close(clone)


async def _serve(served: ServedStatus) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_let_go, served)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _let_go(served: ServedStatus) -> None:
    while True:
        await trio.sleep(_LEASE_SECONDS)
        await trio.to_thread.run_sync(served.let_go)


def fork(run: Callable[[int], None], report: int) -> int:
    """The process id of a child that does *run*, and tells *report* why if that fails."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _run_as_child(run, report, parent)
    return child


def _run_as_child(run: Callable[[int], None], report: int, parent: int) -> NoReturn:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for each in IGNORED:
            signal.signal(each, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            run(report)
        code = 0
    except CbtfsError as exc:
        send_error(report, exc)
        code = exc.exit_code
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
