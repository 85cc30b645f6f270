"""A mount from its first check to its end, in the foreground or as a process of its own."""

import errno
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pyfuse3
import trio

from cbtfs.errors import CbtfsError, MountFailed
from cbtfs.mount.fuse import FuseOperations
from cbtfs.mount.mountpoint import DEVICE, FSNAME, may_mount, prepare, raise_read_ahead, unmount
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.readiness_pipe import READY, parse_error, send_error, send_ready
from cbtfs.mount.status import mount_info
from cbtfs.mount.supervisor import Supervisor
from cbtfs.mount.worker import WorkerContext, fork
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.repository import reading
from cbtfs.store.settings import load_settings

_OPTIONS: Final = ("default_permissions", "ro", "nosuid", "nodev", "noexec", f"fsname={FSNAME}")
_LOG_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class MountServer:
    """What shall be mounted where, and how."""

    repository: Path
    mountpoint: Path
    workers: int
    is_for_others: bool = False
    """Whether other users than the one who mounts are let in, as far as modes allow."""

    def serve(self, ready: Callable[[], None]) -> None:
        """Mount and serve until unmounted; *ready* is called once the root can be listed."""
        place = prepare(self.mountpoint, self.repository)
        load_settings(self.repository)
        may_mount(for_others=self.is_for_others)
        _check_repository(self.repository)
        file_system = self._mount(place)
        has_served = False

        def serving() -> None:
            nonlocal has_served
            has_served = True
            # Not before: the answer to the kernel's first request would lower it again.
            raise_read_ahead(place)
            ready()

        try:
            session = self._session(file_system)
            Supervisor(place, self.workers, session.work, session.board.count_error).run(serving)
        except BaseException:
            # A mount that served and died is left to be seen: an empty folder looks like a loss.
            if not has_served:
                unmount(place, is_lazy=True)
            raise

    def _mount(self, place: Path) -> FuseOperations:
        file_system = FuseOperations()
        options = {*_OPTIONS, *(["allow_other"] if self.is_for_others else [])}
        try:
            pyfuse3.init(file_system, str(place), options)
        except RuntimeError as exc:
            raise MountFailed(
                f"cannot mount on {place}: libfuse says why in the line before this one, in the "
                "log, or on standard error with --foreground"
            ) from exc
        return file_system

    def _session(self, file_system: FuseOperations) -> WorkerContext:
        trio.run(_answer_init, file_system)
        repository = self.repository.absolute()
        return WorkerContext(
            repository,
            file_system,
            _find_device(),
            OpenCounts(),
            WorkerStats(),
            mount_info(str(repository), str(self.mountpoint.absolute()), os.getpid()),
        )

    def serve_in_background(self, log_file: Path) -> None:
        """Mount, and return once the root can be listed; what goes wrong later is in *log_file*.

        Raises what kept the mount from starting.
        """
        log = _open_log(log_file)
        heard, report = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            os.close(heard)
            self._serve_detached(log, report)
        os.close(report)
        os.close(log)
        with open(heard, "rb") as file:
            said = file.readline()  # not all there is: the workers have the other end, too
        if said != READY:
            raise parse_error(said) or MountFailed(f"the mount ended at once: see {log_file}")

    def _serve_detached(self, log: int, report: int) -> None:
        """Serve as a process that no terminal knows; never returns."""
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, stream)
        is_ready = False

        def ready() -> None:
            nonlocal is_ready
            is_ready = True
            send_ready(report)
            os.close(report)

        code = 70
        try:
            os.chdir("/")
            self.serve(ready)
            code = 0
        except CbtfsError as exc:
            if not is_ready:
                send_error(report, exc)
            sys.stderr.write(f"cbtfs: {exc}\n")
            code = exc.exit_code
        finally:
            if sys.exc_info()[0] is not None:
                sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(code)


def _check_repository(repository: Path) -> None:
    """Open the repository once, in a child: LMDB does not survive the forks to come."""

    def open_it(_: int) -> None:
        with reading(repository):
            pass

    heard, report = os.pipe()
    child = fork(open_it, report)
    os.close(report)
    with open(heard, "rb") as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise parse_error(said) or MountFailed(
            f"the repository {repository} cannot be opened: {code}"
        )


async def _answer_init(file_system: FuseOperations) -> None:
    """Answer the kernel's first request, and read no other."""

    async def wait_readable(fd: int) -> None:
        if file_system.is_initialised:
            greeting.cancel()
        await trio.lowlevel.wait_readable(fd)

    with trio.CancelScope() as greeting, _replaced_wait(wait_readable):
        await pyfuse3.main()


@contextmanager
def _replaced_wait(wait_readable: Callable[[int], Awaitable[None]]) -> Iterator[None]:
    """Let pyfuse3 wait for requests with *wait_readable*.

    It looks trio up in its module at each use: that is how its own asyncio mode is made.
    """
    lowlevel: dict[str, Any] = {**vars(trio.lowlevel), "wait_readable": wait_readable}
    shown = {**vars(trio), "lowlevel": SimpleNamespace(**lowlevel)}
    pyfuse3.trio = SimpleNamespace(**shown)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]


def _find_device() -> int:
    """pyfuse3's descriptor of /dev/fuse, which it does not tell."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == DEVICE:
                return fd
        except FileNotFoundError:
            continue
    raise MountFailed(f"{DEVICE} is not open after the mount")


def _open_log(path: Path) -> int:
    """Open the log for appending; it is no link, and no FIFO that nobody may be reading."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(path, flags, _LOG_MODE)
    except OSError as exc:
        why = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
        raise MountFailed(f"cannot write {path}: {why}; name a --log-file") from exc
    if not stat.S_ISREG(os.fstat(log).st_mode) and not os.path.samefile(path, os.devnull):
        os.close(log)
        raise MountFailed(f"cannot write {path}: not a regular file; name a --log-file")
    os.set_blocking(log, True)
    return log
