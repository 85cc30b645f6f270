"""One QEMU with a guest, which ends with this process."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cbtfs import process
from cbtfs.core.names import printable
from cbtfs.errors import MountFailed
from cbtfs.qemu.programs import find_qemu
from cbtfs.qemu.qmp import Qmp, QmpEnded

_PROGRAM: Final = "qemu-system-x86_64"
_END_SECONDS: Final = 60.0
"""Maximum time for the flush of all images at the end."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest."""

    child: process.Popen[bytes]
    qmp: Qmp
    errors: IO[bytes]

    def screenshot(self, path: Path) -> None:
        """Write a picture of the screen to *path*, as PNG.

        Raises:
            MountFailed: QEMU cannot make it.
        """
        self.qmp.execute("screendump", {"filename": str(path), "format": "png"})

    def failure(self) -> str:
        """Return the last error that QEMU wrote to standard error, or how it ended."""
        return _failure(self.child, self.errors)


@contextmanager
def running_guest(
    options: Sequence[str],
    bind: Callable[[Sequence[process.Argument]], list[process.Argument]] = process.ends_with_parent,
) -> Iterator[Guest]:
    """Run QEMU with *options* until the end of the block.

    *bind* returns the command that runs QEMU and lets it end with this thread.

    The block begins when the guest runs. At its end QEMU flushes all images, as after a loss of
    power of the guest. The kernel kills QEMU if this process, or the thread that started it, ends
    before.

    Raises:
        MountFailed: QEMU refuses the options; the error has its last line.
        UsageError: QEMU is not installed.
    """
    program = find_qemu()
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as errors:
        monitor = [
            *("-chardev", f"socket,id=cbtfs-qmp,fd={theirs.fileno()}"),
            *("-mon", "chardev=cbtfs-qmp,mode=control"),
        ]
        with process.start(
            bind([program, *options, *monitor]),
            stderr=errors,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        ) as child:
            theirs.close()
            try:
                try:
                    qmp = Qmp(ours)
                except QmpEnded as exc:
                    child.wait(_END_SECONDS)
                    raise MountFailed(f"{_PROGRAM} failed: {_failure(child, errors)}") from exc
                yield Guest(child, qmp, errors)
            finally:
                _end(child)


def _failure(child: process.Popen[bytes], errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    named = [line for line in lines if line.startswith(f"{_PROGRAM}: ")]  # others give advice
    last = (named or lines or [""])[-1].removeprefix(f"{_PROGRAM}: ")
    return printable(last) or f"it ended: {child.poll()}"


def _end(child: process.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        child.wait(_END_SECONDS)
    except process.TimeoutExpired:
        child.kill()
        child.wait()
