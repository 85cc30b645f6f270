"""What tests of the mount share: mounts in processes of their own, and ways to do them harm."""

import contextlib
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
    """A mount that is served."""

    process: "subprocess.Popen[str]"
    root: Path

    @property
    def log(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def folder(self, manifest: Manifest) -> Path:
        """The directory of a point."""
        return self.root / manifest.vm.directory / manifest.name

    def disk(self, manifest: Manifest, label: str = "disk") -> Path:
        return self.folder(manifest) / f"{label}.raw"

    def workers(self) -> set[int]:
        """The processes that answer requests."""
        process = self.process.pid
        return {
            int(child)
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        }

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    repository: Path, mountpoint: Path, *options: str, program: tuple[str, ...] = PROGRAM
) -> Iterator[Server]:
    """A mount in the foreground of a process of its own; unmounted at the end, if it still is."""
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
    """Whether it comes to hold within so many seconds, which a loaded machine may need."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)  # the processes that are waited for need the processor, too
    return True


def read_at(path: Path, offset: int, length: int) -> bytes:
    """One read of a file that is opened for it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def forget(path: Path, point: PointId) -> None:
    """Forget a point: its manifest gets another name, the catalog follows."""
    manifest = path / "points" / point
    manifest.rename(manifest.with_name(f"{point}.forgotten"))
    with writing(path):
        pass


def location(path: Path, block: bytes | bytearray) -> tuple[Path, Location]:
    """The pack in which a chunk with that content is, and where."""
    with reading(path) as repository, repository.catalog.view() as view:
        number = view.find(Kind.CHUNK, 0, chunk_digest(bytes(block).ljust(BLOCK, b"\0")))
        assert number is not None
        found = view.location(number)
        assert found is not None
        record = view.pack(found.pack)
        assert record is not None
        return repository.packs.path(record.id), found


def corrupt(path: Path, block: bytes | bytearray) -> str:
    """Flip a bit of the chunk with that content; its digest."""
    pack, found = location(path, block)
    with open(pack, "r+b") as file:
        file.seek(found.frame.payload_offset + 7)
        byte = file.read(1)[0]
        file.seek(found.frame.payload_offset + 7)
        file.write(bytes([byte ^ 4]))
    return found.frame.digest.hex()


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
