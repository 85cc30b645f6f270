"""One qemu-storage-daemon, which ends with this process."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cbtfs import process
from cbtfs.core.names import printable
from cbtfs.errors import MountFailed, UsageError

_PROGRAM: Final = "qemu-storage-daemon"
_READY_SECONDS: Final = 60.0
_END_SECONDS: Final = 60.0
"""Maximum time for the flush of all images at the end."""
_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class StorageDaemon:
    """A running daemon."""

    child: process.Popen[bytes]
    errors: IO[bytes]

    def failure(self) -> str:
        """Return the last line that the daemon wrote to standard error, or how it ended."""
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return printable(text.removeprefix(f"{_PROGRAM}: ")) or f"it ended: {self.child.poll()}"


def find_daemon() -> str:
    """Return the path of qemu-storage-daemon; UsageError if it is not installed."""
    program = process.find_program(_PROGRAM)
    if program is None:
        raise UsageError(
            f"the program {_PROGRAM} is missing: install the package qemu-system-common"
        )
    return program


@contextmanager
def storage_daemon(
    options: Sequence[str], runtime: Path, pass_fds: Sequence[int] = ()
) -> Iterator[StorageDaemon]:
    """Run a daemon with *options* until the end of the block; *runtime* is an empty directory.

    *pass_fds*: descriptors that the daemon inherits, with their numbers.
    The block begins when all exports can be used. At its end the daemon flushes all images. The
    kernel kills it if this process, or the thread that started it, ends before.

    Raises:
        MountFailed: the daemon refuses the options; the error has its last line.
    """
    ready = runtime / "daemon.pid"
    command = [find_daemon(), *options, "--pidfile", str(ready)]
    with (
        tempfile.TemporaryFile() as errors,
        process.start(
            process.ends_with_parent(command),
            stderr=errors,
            pass_fds=pass_fds,
            start_new_session=True,
        ) as child,
    ):
        daemon = StorageDaemon(child, errors)
        try:
            _wait_until_ready(daemon, ready)
            yield daemon
        finally:
            _end(child)
            ready.unlink(missing_ok=True)


def _wait_until_ready(daemon: StorageDaemon, ready: Path) -> None:
    """Wait for the pid file, which the daemon writes when all exports exist."""
    deadline = time.monotonic() + _READY_SECONDS
    while not ready.exists():
        if daemon.child.poll() is not None:
            raise MountFailed(f"{_PROGRAM} failed: {daemon.failure()}")
        if time.monotonic() > deadline:
            raise MountFailed(f"{_PROGRAM} was not ready in {_READY_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _end(child: process.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        child.wait(_END_SECONDS)
    except process.TimeoutExpired:
        child.kill()
        child.wait()
