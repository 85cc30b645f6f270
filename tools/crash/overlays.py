"""Campaign: kill the processes of an overlay, or cut its power, under a writer that flushes."""

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.content import ContentSource
from cbtfs.store.repository import create_repository, writing
from cbtfs.store.settings import new_settings
from tools.crash.loop import loop_disk
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

FAULTS: Final = ("start", "daemon", "power", "mount", "worker")
"""In turn: SIGKILL to a process, or a power cut of the file system with the images."""
_NAME: Final = "lab"
_SIZE: Final = 8 << 20
_BLOCK: Final = 4096
_FILE_SYSTEM_BYTES: Final = 128 << 20
_LOAD_SECONDS: Final = 0.6
"""Maximum time of the load before a fault."""
_END_SECONDS: Final = 60


@dataclass(slots=True)
class _Disk:
    """The expected content of the disk: acknowledged writes, and the one that was in flight."""

    content: bytearray
    in_flight: tuple[int, bytes] | None = None
    acknowledged: int = 0
    errors: list[OSError] = field(default_factory=list)

    def write_until_error(self, raw: Path, rnd: random.Random, stop: threading.Event) -> None:
        """Write blocks, each with a flush, until a write fails or *stop* is set."""
        fd = os.open(raw, os.O_RDWR)
        try:
            while not stop.is_set():
                offset = rnd.randrange(_SIZE // _BLOCK) * _BLOCK
                data = rnd.randbytes(_BLOCK) if rnd.random() < 0.8 else bytes(_BLOCK)
                self.in_flight = offset, data
                os.pwrite(fd, data, offset)
                os.fsync(fd)
                self.content[offset : offset + _BLOCK] = data
                self.in_flight = None
                self.acknowledged += 1
        except OSError as exc:
            self.errors.append(exc)
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)

    def verify(self, found: bytes) -> None:
        """Raise Violation unless *found* has every acknowledged write."""
        if self.in_flight is not None:
            offset, data = self.in_flight
            if found[offset : offset + _BLOCK] == data:
                self.content[offset : offset + _BLOCK] = data
            self.in_flight = None
        if found != self.content:
            blocks = range(0, _SIZE, _BLOCK)
            wrong = [n for n in blocks if found[n : n + _BLOCK] != self.content[n : n + _BLOCK]]
            raise Violation(
                f"{len(wrong)} blocks of the overlay are wrong, the first at {wrong[0]}"
            )


@dataclass(frozen=True, slots=True)
class _Setup:
    repository: Path
    directory: Path

    @property
    def raw(self) -> Path:
        return self.directory / _NAME / "root.raw"

    def command(self, action: str, *words: str) -> list[str]:
        program = [sys.executable, "-m", "cbtfs", f"--repo={self.repository}", "overlay"]
        return [*program, action, *words, f"--dir={self.directory}"]

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Start the overlay; it ends before the block does, whatever happened to it."""
        command = self.command("start", _NAME)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            try:
                if "ready\n" not in iter(child.stdout.readline, ""):
                    raise Violation(f"the overlay does not start: {child.stderr.read()}")
                yield child
            finally:
                processes = _descendants(child.pid)
                child.kill()
                for process in processes:
                    _wait_for_end(process)


def overlays(folder: Path, seed: int, count: int) -> CampaignResult:
    """Cause *count* faults in turn; after each, the overlay starts and has every flushed write."""
    rnd = random.Random(seed)
    disk = _Disk(bytearray(rnd.randbytes(_SIZE)))
    with loop_disk(folder, "ext4", _FILE_SYSTEM_BYTES) as storage:
        setup = _Setup(folder / "repository", storage.mountpoint / "overlays")
        point = _ingest(setup.repository, bytes(disk.content))
        subprocess.run(setup.command("create", point, _NAME), check=True, capture_output=True)
        for number in range(count):
            fault = FAULTS[number % len(FAULTS)]
            with setup.started() as child:
                disk.verify(setup.raw.read_bytes())
                with _load(disk, setup, rnd):
                    time.sleep(rnd.random() * _LOAD_SECONDS)
                    if fault == "power":
                        storage.cut_power()
                    else:
                        os.kill(_victim(child.pid, fault), signal.SIGKILL)
            if fault == "power":
                storage.power_up()
        with setup.started():
            disk.verify(setup.raw.read_bytes())
        subprocess.run(setup.command("stop", _NAME), check=True, capture_output=True)
        image = setup.directory / _NAME / "root.qcow2"
        subprocess.run(["qemu-img", "check", "-q", "-r", "leaks", image], check=True)
    note = f"{disk.acknowledged} flushed writes, {len(disk.errors)} writers met an error"
    return CampaignResult("overlays", count, "SIGKILL or power cut", 1, 0, 0, note)


@contextmanager
def _load(disk: _Disk, setup: _Setup, rnd: random.Random) -> Iterator[None]:
    """Write to the disk during the block, and until the end of the overlay."""
    stop = threading.Event()
    own = random.Random(rnd.random())
    writer = threading.Thread(target=disk.write_until_error, args=(setup.raw, own, stop))
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def _ingest(path: Path, content: bytes) -> str:
    create_repository(path, new_settings(64 << 10, 1))
    with writing(path) as repository:
        objects = repository.object_writer()
        disk = DiskInput("root", ContentSource(content), "root")
        options = PointOptions(datetime.now(UTC))
        try:
            return ingest_point(repository, objects, VmInput("vm"), [disk], options).point
        finally:
            objects.close()


def _children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in text.split()]


def _descendants(process: int) -> list[int]:
    children = _children(process)
    return children + [pid for child in children for pid in _descendants(child)]


def _victim(start: int, fault: str) -> int:
    """Return the process to kill: the start itself, its daemon, its mount or a worker of that."""
    if fault == "start":
        return start
    for child in _children(start):
        is_daemon = b"--pidfile" in Path(f"/proc/{child}/cmdline").read_bytes()
        if is_daemon == (fault == "daemon"):
            return _children(child)[0] if fault == "worker" else child
    raise Violation(f"the overlay has no {fault}")


def _wait_for_end(process: int) -> None:
    try:
        fd = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        if not select.select([fd], [], [], _END_SECONDS)[0]:
            raise Violation(f"process {process} outlives the overlay")
    finally:
        os.close(fd)
