"""A mount in separate processes, and reader processes that compare each byte."""

import errno
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

from tools.crash.verify import Violation

_WAIT_SECONDS: Final = 60.0
"""Timeout for events that take a second on an idle machine."""
_LONGEST: Final = 512 << 10
_ALIGNED: Final = 4096


def wait_until(holds: Callable[[], bool], event: str) -> None:
    """Wait until *holds* is true; raise Violation on timeout."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Violation(f"timeout while waiting for {event}")
        time.sleep(0.005)


@dataclass
class MountProcess:
    """`cbtfs mount` in the foreground."""

    process: "subprocess.Popen[str]"
    mountpoint: Path

    def workers(self) -> set[int]:
        number = self.process.pid
        try:
            children = Path(f"/proc/{number}/task/{number}/children").read_text()
        except OSError:
            return set()
        return {int(child) for child in children.split()}

    def kill_worker(self, rnd: random.Random) -> None:
        """Kill a worker, and wait until the supervisor has replaced it."""
        before = self.workers()
        victim = rnd.choice(sorted(before))
        os.kill(victim, signal.SIGKILL)

        def is_replaced() -> bool:
            now = self.workers()
            return victim not in now and len(now) == len(before)

        wait_until(is_replaced, "a replacement of the killed worker")

    def kill(self) -> None:
        """Kill the supervisor; its workers end too, and the mount is disconnected."""
        self.process.kill()
        self.process.wait()
        wait_until(lambda: is_dead(self.mountpoint), "the end of a killed mount")

    def unmount(self) -> None:
        subprocess.run(["umount", self.mountpoint], check=True)
        if self.process.wait(_WAIT_SECONDS):
            raise Violation(f"the mount exited with {self.process.returncode}")


def is_dead(mountpoint: Path) -> bool:
    """Whether the server of a FUSE mount has ended (ENOTCONN)."""
    try:
        os.statvfs(mountpoint)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def _command(repository: Path, mountpoint: Path) -> list[str | Path]:
    options = ["mount", "--foreground", "--workers=2"]
    return [sys.executable, "-m", "cbtfs", f"--repo={repository}", *options, mountpoint]


@contextmanager
def serving(repository: Path, mountpoint: Path, log: IO[str]) -> Iterator[MountProcess]:
    """Start a mount and yield it once it is ready; raise Violation if it does not start.

    The caller unmounts or kills the mount. After an exception the mount is removed.
    """
    process = subprocess.Popen(
        _command(repository, mountpoint), stdout=subprocess.PIPE, stderr=log, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise Violation(f"cbtfs mount exited with {process.wait()}: see {log.name}")
            yield MountProcess(process, mountpoint)
        except BaseException:
            process.kill()
            subprocess.run(["umount", "--lazy", mountpoint], check=False, capture_output=True)
            raise


def failed_mount(repository: Path, mountpoint: Path) -> tuple[int, str]:
    """Run a mount that must fail; return its exit code and stderr."""
    done = subprocess.run(
        _command(repository, mountpoint),
        capture_output=True,
        text=True,
        check=False,
        timeout=_WAIT_SECONDS,
    )
    return done.returncode, done.stderr


@contextmanager
def loop_mounted(disk: Path, mountpoint: Path) -> Iterator[Path]:
    """Mount the ext4 file system in *disk* at *mountpoint*; yield the loop device.

    The device uses direct I/O, not the page cache of the file.
    """
    loop = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", "--direct-io=on", disk],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    try:
        subprocess.run(["mount", "-o", "ro,noload", loop, mountpoint], check=True)
        try:
            yield Path(loop)
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@dataclass(slots=True)
class ReadCounts:
    """Counts of correct reads and errors of a reader."""

    correct: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "ReadCounts") -> None:
        self.correct += other.correct
        self.errors += other.errors


Read = Callable[[random.Random], bool]
"""Function that reads once and returns whether the bytes are correct. Raises OSError."""


class ReaderProcess:
    """A process that reads until it gets SIGTERM or the mount is disconnected."""

    def __init__(self, read: Read, seed: int) -> None:
        source, results = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(source)
            _read_on(read, random.Random(seed), results)
        os.close(results)
        self._results = os.fdopen(source, "rb")
        if self._results.readline() != b"going\n":
            raise Violation(f"a reader did not start: {self._results.read()!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._results.closed:
            self._finish(signal.SIGKILL)

    def _finish(self, number: signal.Signals) -> bytes:
        os.kill(self._child, number)
        with self._results:
            report = self._results.read()
        os.waitpid(self._child, 0)
        return report

    def end(self) -> ReadCounts:
        """End the reader and return its counts; raise Violation if it read wrong bytes."""
        report = json.loads(self._finish(signal.SIGTERM))
        if report["wrong"]:
            raise Violation(f"a reader reports {report['wrong']}")
        return ReadCounts(report["correct"], Counter(report["errors"]))


def _read_on(read: Read, rnd: random.Random, results: int) -> None:
    """Read until the end, report to *results*, and exit the process."""
    report: dict[str, object] = {"wrong": "", "correct": 0, "errors": {}}
    try:
        counts, is_ended = ReadCounts(), False

        def end(*_: object) -> None:
            nonlocal is_ended
            is_ended = True

        signal.signal(signal.SIGTERM, end)
        while not is_ended and not counts.errors["ENOTCONN"]:
            try:
                if not read(rnd):
                    report["wrong"] = "wrong bytes"
                    break
                counts.correct += 1
            except OSError as exc:
                counts.errors[errno.errorcode[exc.errno or 0]] += 1
            if counts.correct == 1:
                os.write(results, b"going\n")
        report |= {"correct": counts.correct, "errors": counts.errors}
    except BaseException as exc:
        report["wrong"] = f"{type(exc).__name__}: {exc}"
    finally:
        os.write(results, json.dumps(report).encode())
        os._exit(0)


def direct(disk: Path, image: bytes) -> Read:
    """Return a function that reads parts of *disk* with O_DIRECT through one open file."""
    opened: list[int] = []

    def read(rnd: random.Random) -> bool:
        if not opened:
            opened.append(os.open(disk, os.O_RDONLY | os.O_DIRECT))
        at = rnd.randrange(len(image)) // _ALIGNED * _ALIGNED
        length = rnd.randrange(_ALIGNED, _LONGEST, _ALIGNED)
        with mmap.mmap(-1, length) as buffer:
            count = os.preadv(opened[0], [buffer], at)
            return buffer[:count] == image[at : at + length]

    return read


def reopened(disk: Path, image: bytes) -> Read:
    """Return a function that looks up, opens and reads *disk*, like a new process."""

    def read(rnd: random.Random) -> bool:
        if disk.name not in os.listdir(disk.parent) or disk.stat().st_size != len(image):
            return False
        at = rnd.randrange(len(image))
        fd = os.open(disk, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(fd, _ALIGNED, at) == image[at : at + _ALIGNED]
        finally:
            os.close(fd)

    return read


def files(mountpoint: Path, contents: dict[str, bytes]) -> Read:
    """Return a function that reads whole files of the file system at *mountpoint*."""

    def read(rnd: random.Random) -> bool:
        name = rnd.choice(sorted(contents))
        fd = os.open(mountpoint / name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            content = bytearray()
            while part := os.pread(fd, 1 << 20, len(content)):
                content += part
            return content == contents[name]
        finally:
            os.close(fd)

    return read
