"""Start and serve a mount, in the foreground or in the background."""

import errno
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pyfuse3
import trio

from cbtfs.errors import CbtfsError, MountFailed
from cbtfs.files.engines import Engines
from cbtfs.mount.fuse import FuseOperations
from cbtfs.mount.guest_numbers import GuestNumbers
from cbtfs.mount.mountpoint import prepare, raise_read_ahead, unmount
from cbtfs.mount.mounts import FSNAME
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.permission import DEVICE, require_permission
from cbtfs.mount.readiness_pipe import READY, parse_error, send_error, send_ready
from cbtfs.mount.status import mount_info
from cbtfs.mount.supervisor import Supervisor
from cbtfs.mount.worker import WorkerContext, fork
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.encryption.ring import unlock
from cbtfs.store.repository import reading
from cbtfs.store.settings import load_settings

_OPTIONS: Final = ("default_permissions", "ro", "nosuid", "nodev", "noexec", f"fsname={FSNAME}")
_LOG_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class MountServer:
    """One mount: repository, mount point and options."""

    repository: Path
    mountpoint: Path
    workers: int
    allows_others: bool = False
    """Allow access by other users, as far as file modes permit."""
    engines: Engines = field(default_factory=Engines)
    """The engines of the files of guests."""

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Mount, and serve until unmounted. Call *on_ready* once the root can be listed."""
        mountpoint = prepare(self.mountpoint, self.repository)
        load_settings(self.repository)
        unlock(self.repository)
        require_permission(for_others=self.allows_others)
        _check_repository(self.repository)
        operations = self._mount(mountpoint)
        is_ready = False

        def report_ready() -> None:
            nonlocal is_ready
            is_ready = True
            # Set here because the reply to the kernel's first request would lower it again.
            raise_read_ahead(mountpoint)
            on_ready()

        try:
            context = self._worker_context(operations, mountpoint)
            Supervisor(mountpoint, self.workers, context.work, context.stats.count_error).run(
                report_ready
            )
        except BaseException:
            # A mount that died in service stays: an empty directory would look like data loss.
            if not is_ready:
                unmount(mountpoint, is_lazy=True)
            raise

    def _mount(self, mountpoint: Path) -> FuseOperations:
        operations = FuseOperations()
        options = {*_OPTIONS, *(["allow_other"] if self.allows_others else [])}
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as exc:
            raise MountFailed(
                f"cannot mount on {mountpoint}: libfuse failed; see its message before this line, "
                "in the log, or on standard error with --foreground"
            ) from exc
        return operations

    def _worker_context(self, operations: FuseOperations, mountpoint: Path) -> WorkerContext:
        trio.run(_answer_init, operations)
        repository = self.repository.absolute()
        return WorkerContext(
            repository,
            operations,
            _find_device(),
            OpenCounts(),
            GuestNumbers(),
            WorkerStats(),
            str(mountpoint),
            mount_info(str(repository), str(self.mountpoint.absolute()), os.getpid()),
            self.engines,
        )

    def serve_in_background(self, log_file: Path) -> None:
        """Mount in a child process, and return once the root can be listed. Log to *log_file*.

        Raises:
            CbtfsError: the mount could not start; the error is that of the child.
        """
        unlock(self.repository)  # The child has no terminal, and another current directory.
        log = _open_log(log_file)
        read_end, write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            os.close(read_end)
            self._serve_detached(log, write_end)
        os.close(write_end)
        os.close(log)
        with open(read_end, "rb") as file:
            line = file.readline()  # not read(): the workers keep the write end open
        if line != READY:
            raise parse_error(line) or MountFailed(f"the mount ended early: see {log_file}")

    def _serve_detached(self, log: int, report: int) -> None:
        """Serve in a session without a terminal. Never return."""
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, stream)
        is_ready = False

        def on_ready() -> None:
            nonlocal is_ready
            is_ready = True
            send_ready(report)
            os.close(report)

        code = 70
        try:
            os.chdir("/")
            self.serve(on_ready)
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
    """Open the repository in a child process, because LMDB must not be used across forks."""

    def open_repository(_: int) -> None:
        with reading(repository):
            pass

    read_end, write_end = os.pipe()
    child = fork(open_repository, write_end)
    os.close(write_end)
    with open(read_end, "rb") as file:
        report = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise parse_error(report) or MountFailed(
            f"cannot open the repository {repository}: the check ended with code {code}"
        )


async def _answer_init(operations: FuseOperations) -> None:
    """Answer the kernel's first request, INIT, and read no other."""

    async def wait_readable(fd: int) -> None:
        if operations.is_initialised:
            scope.cancel()
        await trio.lowlevel.wait_readable(fd)

    with trio.CancelScope() as scope, _replaced_wait(wait_readable):
        await pyfuse3.main()


@contextmanager
def _replaced_wait(wait_readable: Callable[[int], Awaitable[None]]) -> Iterator[None]:
    """Make pyfuse3 wait for requests with *wait_readable*.

    pyfuse3 looks up the name trio in its module at each use; its asyncio mode relies on that.
    """
    lowlevel: dict[str, Any] = {**vars(trio.lowlevel), "wait_readable": wait_readable}
    replacement = {**vars(trio), "lowlevel": SimpleNamespace(**lowlevel)}
    pyfuse3.trio = SimpleNamespace(**replacement)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]


def _find_device() -> int:
    """Return pyfuse3's descriptor of /dev/fuse, which pyfuse3 does not publish."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == DEVICE:
                return fd
        except FileNotFoundError:
            continue
    raise MountFailed(f"cannot serve the mount: pyfuse3 has not opened {DEVICE}")


def _open_log(path: Path) -> int:
    """Open the log for appending. Refuse a link, and a FIFO, which may have no reader."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(path, flags, _LOG_MODE)
    except OSError as exc:
        reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
        raise MountFailed(f"cannot write {path}: {reason}; name a --log-file") from exc
    if not stat.S_ISREG(os.fstat(log).st_mode) and not os.path.samefile(path, os.devnull):
        os.close(log)
        raise MountFailed(f"cannot write {path}: not a regular file; name a --log-file")
    os.set_blocking(log, True)
    return log
