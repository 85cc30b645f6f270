"""One worker process of a mount: it file_system requests until the file system is unmounted."""

import ctypes
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import trio

from cbtfs.errors import CbtfsError
from cbtfs.mount.device import Device
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.fuse import FuseOperations
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.readiness_pipe import send_error, send_ready
from cbtfs.mount.status import FileSystemWithStatus, MountInfo
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.repository import reading

log = logging.getLogger(__name__)

_SET_PDEATHSIG: Final = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_LEASE_SECONDS: Final = 1
"""How long a point may stay leased after its last file was closed through another worker."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that the supervising process alone acts on: a terminal sends them to all."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """A mounted file system that waits for workers; made before they are forked."""

    repository: Path
    file_system: FuseOperations
    fd: int
    """pyfuse3's descriptor of /dev/fuse."""
    shared: OpenCounts
    board: WorkerStats
    facts: MountInfo

    def work(self, report: int, is_suspect: bool) -> None:
        """Answer requests, in a process of its own, until the file system is unmounted.

        The catalog is opened here: LMDB does not survive a fork. It is looked at first where it
        *is_suspect*: a worker that had it open ended by a fault.
        """
        _allow_files()
        with reading(self.repository, is_suspect=is_suspect) as repository:
            inner = FileSystem(repository, self.shared)
            device = Device(self.fd, inner.chunks)
            inner.provide_leaves_to(device.requests)
            file_system = FileSystemWithStatus(inner, repository, self.board, self.facts)
            self.file_system.serve(file_system)
            send_ready(report)
            trio.run(_serve, device, file_system)


def _allow_files() -> None:
    """Let this process have as many files open as it may: a read can meet thousands of packs."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(device: Device, file_system: FileSystemWithStatus) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat_periodic_work, file_system)
        await device.serve(file_system)
        nursery.cancel_scope.cancel()


async def _repeat_periodic_work(served: FileSystemWithStatus) -> None:
    """Do the chores of every second; a catalog that cannot be read now may be mended meanwhile."""
    told = ""
    while True:
        await trio.sleep(_LEASE_SECONDS)
        try:
            await trio.to_thread.run_sync(served.run_periodic_work)
            told = ""
        except CbtfsError as exc:
            if str(exc) != told:
                log.error("%s", exc)
                told = str(exc)


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
