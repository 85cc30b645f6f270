"""Servers that export a disk as a file: cbtfs, its peers and an empty file system."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from cbtfs.mount.mountpoint import raise_read_ahead
from tools.bench.programs import ROOT, Program, run

_START_SECONDS: Final = 120.0
"""Timeout of a start: a chain of 1,000 images takes seconds, and far longer under load."""
_POLL_SECONDS: Final = 0.02


@contextmanager
def mounted(program: Program, repository: Path, at: Path, workers: int) -> Iterator[int]:
    """Mount *repository* at *at*; yield the process id of the supervisor of the workers."""
    at.mkdir()
    count = ("--workers", str(workers))
    command = program.command(repository, "mount", "--foreground", *count, at)
    with _serving(command, at, program.environment) as process:
        yield process


@contextmanager
def empty_mounted(at: Path, size: int, workers: int) -> Iterator[Path]:
    """Mount a pyfuse3 file system with a file of zeros: the upper bound of read rates."""
    at.mkdir()
    command = [sys.executable, "-m", "tools.bench.empty", str(size), str(workers), str(at)]
    with _serving(command, at, {"PYTHONPATH": str(ROOT)}):
        raise_read_ahead(at)
        yield at / "disk.raw"


@contextmanager
def _serving(command: Sequence[str], at: Path, environment: dict[str, str]) -> Iterator[int]:
    """Start a server that prints `ready`, and unmount *at* afterwards; yield its process id."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise CbtfsError(f"{' '.join(command)} did not become ready")
            yield process.pid
        finally:
            subprocess.run(["umount", at], check=False)
    at.rmdir()


@contextmanager
def qemu_exported(image: Path, at: Path, *, is_writable: bool = False) -> Iterator[Path]:
    """Export a qcow2 image with its backing files by qemu-storage-daemon as the file *at*."""
    at.touch()
    pidfile = at.with_name(at.name + ".pid")
    mode = "on" if is_writable else "off"
    read_only = "off" if is_writable else "on"
    run(
        [
            "qemu-storage-daemon",
            "--daemonize",
            "--pidfile",
            pidfile,
            "--blockdev",
            f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image},"
            f"detect-zeroes={mode},read-only={read_only},auto-read-only=off",
            "--export",
            f"type=fuse,id=export,node-name=disk,mountpoint={at},writable={mode}",
        ]
    )
    process = int(pidfile.read_text())
    try:
        yield at
    finally:
        os.kill(process, signal.SIGTERM)
        _wait(lambda: not pidfile.exists())
        at.unlink()


@contextmanager
def nbdfuse_exported(image: Path, at: Path) -> Iterator[Path]:
    """Export a qcow2 image by nbdfuse over qemu-nbd as the file *at*."""
    at.touch()
    pidfile = at.with_name(at.name + ".pid")
    server = ["[", "qemu-nbd", "--read-only", "--format=qcow2", str(image), "]"]
    with subprocess.Popen(["nbdfuse", "--readonly", f"--pidfile={pidfile}", at, *server]):
        try:
            _wait(pidfile.exists)
            yield at
        finally:
            subprocess.run(["umount", at], check=False)
    pidfile.unlink(missing_ok=True)
    at.unlink()


@contextmanager
def loop_mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount the ext4 file system in *image* read-only at *at*."""
    at.mkdir()
    try:
        run(["mount", "-o", "loop,ro,noload,nosuid,nodev,noexec", image, at])
        try:
            yield at
        finally:
            run(["umount", at])
    finally:
        at.rmdir()


def _wait(holds: Callable[[], bool]) -> None:
    """Poll until *holds* is true, because these peers signal by a file only.

    Raises CbtfsError on timeout.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise CbtfsError(f"a peer did not start or end within {_START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def worker_memory(process: int) -> list[int]:
    """Return the anonymous memory of each child of *process* in bytes."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [anonymous_memory(int(child)) for child in children]


def anonymous_memory(process: int) -> int:
    """Return the anonymous memory of a process in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
