"""Programs of the system that the demo runs, and what it needs of the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import CbtfsError, UsageError

_NEEDED = ("sgdisk", "mkfs.ext4", "mkfs.xfs", "losetup", "mount", "umount", "fstrim")
_SECONDS: Final = 600


def require() -> None:
    """UsageError unless loop devices can be set up and file systems mounted here."""
    if os.geteuid() != 0:
        raise UsageError("the demo mounts file systems on loop devices: run it as root")
    missing = [name for name in _NEEDED if process.find_program(name) is None]
    if missing:
        raise UsageError(f"the demo needs {', '.join(missing)}: run tools/setup, or install them")


def run(*command: str | Path) -> str:
    """Standard output of a command; CbtfsError with its last words if it fails."""
    name, *arguments = command
    try:
        done = process.run([process.find_program(str(name)) or name, *arguments], _SECONDS)
    except OSError as exc:
        raise CbtfsError(f"cannot run {name}: {exc.strerror}") from exc
    except process.TimeoutExpired as exc:
        raise CbtfsError(f"{name} did not end in {_SECONDS} s") from exc
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"code {done.returncode}"]
        raise CbtfsError(f"{command[0]} failed: {words[-1]}")
    return done.stdout


@contextmanager
def loop_mounted(
    image: Path, offset: int, length: int, at: Path, kind: str, options: str
) -> Iterator[Path]:
    """The file system in part of *image*, mounted at *at* through a loop device.

    Read-only where *options* say ro: then the loop device is read-only too.
    """
    flags = ["--read-only"] if "ro" in options.split(",") else []
    place = ["--offset", str(offset), "--sizelimit", str(length)]
    device = run("losetup", "--find", "--show", *flags, *place, image).strip()
    try:
        at.mkdir(exist_ok=True)
        run("mount", "-t", kind, "-o", options, device, at)
        try:
            yield at
        finally:
            run("umount", at)
    finally:
        run("losetup", "--detach", device)
