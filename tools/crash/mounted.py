"""A mount in processes of its own, and who reads from it until it is gone: each byte compared."""

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
"""For what comes within a second, unless the machine is busy."""
_LONGEST: Final = 512 << 10
_ALIGNED: Final = 4096


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for *holds*; Violation if it does not come to."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Violation(f"waited in vain for {what}")
        time.sleep(0.005)


@dataclass
class Server:
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
        """Kill one, and wait until another has taken its mountpoint."""
        before = self.workers()
        victim = rnd.choice(sorted(before))
        os.kill(victim, signal.SIGKILL)

        def is_replaced() -> bool:
            now = self.workers()
            return victim not in now and len(now) == len(before)

        wait_until(is_replaced, "a worker in mountpoint of the dead one")

    def kill(self) -> None:
        """Kill the one above the workers; they end with it, and nobody answers any more."""
        self.process.kill()
        self.process.wait()
        wait_until(lambda: is_dead(self.mountpoint), "the end of a mount that was killed")

    def unmount(self) -> None:
        subprocess.run(["umount", self.mountpoint], check=True)
        if self.process.wait(_WAIT_SECONDS):
            raise Violation(f"the mount ended with {self.process.returncode}")


def is_dead(mountpoint: Path) -> bool:
    try:
        os.statvfs(mountpoint)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def _command(repository: Path, mountpoint: Path) -> list[str | Path]:
    options = ["mount", "--foreground", "--workers=2"]
    return [sys.executable, "-m", "cbtfs", f"--repo={repository}", *options, mountpoint]


@contextmanager
def serving(repository: Path, mountpoint: Path, log: IO[str]) -> Iterator[Server]:
    """A mount that serves; Violation if it does not come to.

    It is left as it is in the end, dead or unmounted; after an exception nothing is left of it.
    """
    process = subprocess.Popen(
        _command(repository, mountpoint), stdout=subprocess.PIPE, stderr=log, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise Violation(f"cbtfs mount ended with {process.wait()}: see {log.name}")
            yield Server(process, mountpoint)
        except BaseException:
            process.kill()
            subprocess.run(["umount", "--lazy", mountpoint], check=False, capture_output=True)
            raise


def failed_mount(repository: Path, mountpoint: Path) -> tuple[int, str]:
    """How a mount that must fail does: its exit code, and what it says."""
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
    """The ext4 file system in *disk*, mounted at *mountpoint* by a loop device; yields the device.

    The device reads by itself, not from the page cache of the file.
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
    """What a reader saw; a wrong byte is a Violation."""

    right: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "ReadCounts") -> None:
        self.right += other.right
        self.errors += other.errors


Read = Callable[[random.Random], bool]
"""One read; whether it was right. OSError is let through."""


class ReaderProcess:
    """Reads on in a process of its own until it is told to end, or the mount is gone."""

    def __init__(self, read: Read, seed: int) -> None:
        source, results = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(source)
            _read_on(read, random.Random(seed), results)
        os.close(results)
        self._results = os.fdopen(source, "rb")
        if self._results.readline() != b"going\n":
            raise Violation(f"a reader does not come to read: {self._results.read()!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._results.closed:
            self._finish(signal.SIGKILL)

    def _finish(self, how: signal.Signals) -> bytes:
        os.kill(self._child, how)
        with self._results:
            said = self._results.read()
        os.waitpid(self._child, 0)
        return said

    def end(self) -> ReadCounts:
        """What it saw until now; Violation if that was not what it should."""
        told = json.loads(self._finish(signal.SIGTERM))
        if told["wrong"]:
            raise Violation(f"a reader saw {told['wrong']}")
        return ReadCounts(told["right"], Counter(told["errors"]))


def _read_on(read: Read, rnd: random.Random, results: int) -> None:
    """Never returns."""
    told: dict[str, object] = {"wrong": "", "right": 0, "errors": {}}
    try:
        counts, is_told = ReadCounts(), False

        def end(*_: object) -> None:
            nonlocal is_told
            is_told = True

        signal.signal(signal.SIGTERM, end)
        while not is_told and not counts.errors["ENOTCONN"]:
            try:
                if not read(rnd):
                    told["wrong"] = "wrong bytes"
                    break
                counts.right += 1
            except OSError as exc:
                counts.errors[errno.errorcode[exc.errno or 0]] += 1
            if counts.right == 1:
                os.write(results, b"going\n")
        told |= {"right": counts.right, "errors": counts.errors}
    except BaseException as exc:
        told["wrong"] = f"{type(exc).__name__}: {exc}"
    finally:
        os.write(results, json.dumps(told).encode())
        os._exit(0)


def direct(disk: Path, image: bytes) -> Read:
    """Reads of pieces of *disk*, past the page cache, through one open file."""
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
    """Looks names up, opens and reads, each time, as somebody who comes new does."""

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
    """Whole files of the file system at *mountpoint*."""

    def read(rnd: random.Random) -> bool:
        name = rnd.choice(sorted(contents))
        fd = os.open(mountpoint / name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            found = bytearray()
            while part := os.pread(fd, 1 << 20, len(found)):
                found += part
            return found == contents[name]
        finally:
            os.close(fd)

    return read
