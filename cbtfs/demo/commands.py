"""System programs of the demo, and its requirements."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import CbtfsError, UsageError

_PROGRAMS = ("sgdisk", "mkfs.ext4", "mkfs.xfs", "losetup", "mount", "umount", "fstrim")
_TIMEOUT_SECONDS: Final = 600


def check_requirements() -> None:
    """Check that this process can set up loop devices and mount file systems.

    Raises:
        UsageError: it is not root, or a program is missing.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "cannot run the demo: it mounts file systems on loop devices; run it as root"
        )
    missing = [name for name in _PROGRAMS if process.find_program(name) is None]
    if missing:
        raise UsageError(
            f"cannot run the demo: {', '.join(missing)} not found; install them, or run tools/setup"
        )


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Return the standard output of a command; *env* is its environment, if it is not a clean one.

    Raises:
        CbtfsError: the command failed; the message contains its last line.
    """
    name, *arguments = command
    try:
        program = process.find_program(str(name)) or name
        done = process.run([program, *arguments], _TIMEOUT_SECONDS, env=env)
    except OSError as exc:
        raise CbtfsError(f"cannot run {name}: {exc.strerror}") from exc
    except process.TimeoutExpired as exc:
        raise CbtfsError(f"{name} timed out after {_TIMEOUT_SECONDS} s") from exc
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [
            f"exit code {done.returncode}"
        ]
        raise CbtfsError(f"{command[0]} failed: {lines[-1]}")
    return done.stdout


@contextmanager
def loop_mounted(
    image: Path, offset: int, length: int, at: Path, kind: str, options: str
) -> Iterator[Path]:
    """Mount the file system in part of *image* at *at* through a loop device.

    The loop device is read-only if *options* contain ro.
    """
    flags = ["--read-only"] if "ro" in options.split(",") else []
    part = ["--offset", str(offset), "--sizelimit", str(length)]
    device = run("losetup", "--find", "--show", *flags, *part, image).strip()
    try:
        at.mkdir(exist_ok=True)
        run("mount", "-t", kind, "-o", options, device, at)
        try:
            yield at
        finally:
            run("umount", at)
    finally:
        run("losetup", "--detach", device)
