"""Mounts in child processes, and ways to damage their repositories."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cbtfs.core.extent import Extent
from cbtfs.core.frame import Kind
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.store.catalog.records import Location
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import reading, writing
from tests.make_points import BLOCK, SIGNALS

PROGRAM: Final = (sys.executable, "-m", "cbtfs")


@dataclass
class Server:
    """A running mount."""

    process: "subprocess.Popen[str]"
    root: Path

    @property
    def log(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def folder(self, manifest: Manifest) -> Path:
        """Return the directory of a point."""
        return self.root / manifest.vm.directory / manifest.name

    def disk(self, manifest: Manifest, label: str = "disk") -> Path:
        return self.folder(manifest) / f"{label}.raw"

    def workers(self) -> set[int]:
        """Return the process ids of the workers."""
        process = self.process.pid
        return {
            int(child)
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        }

    def wait(self) -> int:
        """Wait for the end of the mount and return its exit code."""
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    repository: Path, mountpoint: Path, *options: str, program: tuple[str, ...] = PROGRAM
) -> Iterator[Server]:
    """Mount in the foreground of a child process. Unmount at the end."""
    mountpoint.mkdir(exist_ok=True)
    command = [
        *SIGNALS,
        *program,
        f"--repo={repository}",
        "mount",
        "--foreground",
        *options,
        str(mountpoint),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line == "ready\n", process.stderr.read()
            yield Server(process, mountpoint)
        finally:
            subprocess.run(["umount", mountpoint], check=False, capture_output=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()
            subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return True once *holds* does, or False after *seconds*; loaded machines are slow."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)  # leave the processor to the other processes
    return True


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Open a file, read once and close it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def try_seek(fd: int, offset: int, kind: int) -> int | None:
    """Return the result of one seek, or None for ENXIO."""
    try:
        return os.lseek(fd, offset, kind)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise


def data_extents(path: Path) -> list[Extent]:
    """Return the extents that a program finds, which asks in turn for data and for a hole."""
    extents: list[Extent] = []
    with path.open("rb") as file:
        start = try_seek(file.fileno(), 0, os.SEEK_DATA)
        while start is not None:
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            assert end > start
            if extents and extents[-1].end == start:
                start = extents.pop().start
            extents.append(Extent(start, end - start))
            start = try_seek(file.fileno(), end, os.SEEK_DATA)
    return extents


def forget(path: Path, point: PointId) -> None:
    """Forget a point: rename its manifest and update the catalog."""
    manifest = path / "points" / point
    manifest.rename(manifest.with_name(f"{point}.forgotten"))
    with writing(path):
        pass


def locate(path: Path, block: bytes | bytearray) -> tuple[Path, Location]:
    """Return the pack and the location of the chunk with that content."""
    with reading(path) as repository, repository.catalog.view() as view:
        number = view.find(Kind.CHUNK, 0, chunk_digest(bytes(block).ljust(BLOCK, b"\0")))
        assert number is not None
        location = view.location(number)
        assert location is not None
        record = view.pack(location.pack)
        assert record is not None
        return repository.packs.path(record.id), location


def corrupt(path: Path, block: bytes | bytearray) -> str:
    """Flip a bit in the chunk with that content, and return its digest in hexadecimal."""
    pack, location = locate(path, block)
    with open(pack, "r+b") as file:
        file.seek(location.frame.payload_offset + 7)
        byte = file.read(1)[0]
        file.seek(location.frame.payload_offset + 7)
        file.write(bytes([byte ^ 4]))
    return location.frame.digest.hex()


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
