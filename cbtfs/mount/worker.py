"""A worker process of a mount, which answers requests until the file system is unmounted."""

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
from cbtfs.files.engines import Engines
from cbtfs.mount.device import Device
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.fuse import FuseOperations
from cbtfs.mount.guest_files import FileSystemWithGuestFiles
from cbtfs.mount.guest_numbers import GuestNumbers
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.readiness_pipe import send_error, send_ready
from cbtfs.mount.status import FileSystemWithStatus, MountInfo
from cbtfs.mount.views import FileSystemWithViews
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.repository import reading

log = logging.getLogger(__name__)

_SET_PDEATHSIG: Final = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_PERIOD_SECONDS: Final = 1
"""Period of the periodic work, which ends leases of files closed by another worker."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that only the supervisor handles; a terminal sends them to all processes."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The resources of a mount that its workers inherit. Create it before they are forked."""

    repository: Path
    operations: FuseOperations
    fd: int
    """pyfuse3's descriptor of /dev/fuse."""
    open_counts: OpenCounts
    guest_numbers: GuestNumbers
    stats: WorkerStats
    mountpoint: str
    """Absolute path without symbolic links, which images contain."""
    mount_info: MountInfo
    engines: Engines
    """The engines of the files of guests."""

    def work(self, report: int, is_suspect: bool) -> None:
        """Answer requests in this process until the file system is unmounted.

        The catalog is opened here, because an LMDB environment must not be used across a fork.
        *is_suspect*: verify the catalog first, because a worker that had it open died of a fault.
        """
        _raise_file_limit()
        with reading(self.repository, is_suspect=is_suspect) as repository:
            inner = FileSystem(repository, self.open_counts)
            device = Device(self.fd, inner.chunks)
            inner.provide_leaves_to(device.requests)
            views = FileSystemWithViews(inner, self.mountpoint)
            guests = FileSystemWithGuestFiles(views, inner, self.guest_numbers, self.engines)
            file_system = FileSystemWithStatus(guests, repository, self.stats, self.mount_info)
            self.operations.serve(file_system)
            send_ready(report)
            trio.run(_serve, device, file_system)


def _raise_file_limit() -> None:
    """Raise the limit of open files to the maximum: a read can use thousands of packs."""
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


async def _serve(device: Device, file_system: FileSystemWithStatus) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat_periodic_work, file_system)
        await device.serve(file_system)
        nursery.cancel_scope.cancel()


async def _repeat_periodic_work(file_system: FileSystemWithStatus) -> None:
    """Run the periodic work. Log each error once; a damaged catalog may be repaired meanwhile."""
    logged = ""
    while True:
        await trio.sleep(_PERIOD_SECONDS)
        try:
            await trio.to_thread.run_sync(file_system.run_periodic_work)
            logged = ""
        except CbtfsError as exc:
            if str(exc) != logged:
                log.error("%s", exc)
                logged = str(exc)


def fork(run: Callable[[int], None], report: int) -> int:
    """Fork a child that calls *run* and reports an error to *report*. Return its process id."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _run_as_child(run, report, parent)
    return child


def _run_as_child(run: Callable[[int], None], report: int, parent: int) -> NoReturn:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
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
