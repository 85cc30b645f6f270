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
from collections.abc import Iterator, Sequence
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
from tools.crash.loop import LoopDisk, loop_disk
from tools.crash.patterned import PatternedWriter
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

FAULTS: Final = ("start", "daemon", "power", "mount", "worker")
"""In turn: SIGKILL to a process, or a power cut of the file system with the images."""
_FORMS: Final = {"own": (), "joint": ("--limit=96M",)}
"""Options of the overlays, which the faults meet in turn: an image for each disk, one for all."""
_SIZE: Final = 8 << 20
_BLOCK: Final = 4096
_FILE_SYSTEM_BYTES: Final = 192 << 20
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
class _Overlay:
    """An overlay of two disks, each with a writer."""

    repository: Path
    directory: Path
    name: str
    disk: _Disk
    patterned: PatternedWriter

    @property
    def raw(self) -> Path:
        return self.directory / self.name / "root.raw"

    def create(self, point: str, options: Sequence[str]) -> None:
        command = self.command("create", point, self.name, *options)
        subprocess.run(command, check=True, capture_output=True)

    def verify(self) -> None:
        """Raise Violation unless the running overlay has every acknowledged write."""
        self.disk.verify(self.raw.read_bytes())
        self.patterned.verify()

    def command(self, action: str, *words: str) -> list[str]:
        program = [sys.executable, "-m", "cbtfs", f"--repo={self.repository}", "overlay"]
        return [*program, action, *words, f"--dir={self.directory}"]

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Start the overlay; it ends before the block does, whatever happened to it."""
        command = self.command("start", self.name)
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
    content = rnd.randbytes(_SIZE)
    with loop_disk(folder, "ext4", _FILE_SYSTEM_BYTES) as storage:
        point = _ingest(folder / "repository", content)
        tried = [_create(folder, storage, form, point, content) for form in _FORMS]
        for number in range(count):
            overlay, fault = tried[number % len(tried)], FAULTS[number % len(FAULTS)]
            with overlay.started() as child:
                overlay.verify()
                with _load(overlay, rnd):
                    time.sleep(rnd.random() * _LOAD_SECONDS)
                    if fault == "power":
                        storage.cut_power()
                    else:
                        os.kill(_victim(child.pid, fault, rnd), signal.SIGKILL)
            if fault == "power":
                storage.power_up()
        for overlay in tried:
            _end(overlay)
    flushed = sum(overlay.disk.acknowledged for overlay in tried)
    verified = sum(overlay.patterned.verified for overlay in tried)
    errors = sum(len(overlay.disk.errors) for overlay in tried)
    note = f"{flushed} flushed writes, {verified} verified by fio, {errors} writers met an error"
    return CampaignResult("overlays", count, "SIGKILL or power cut", 1, 0, 0, note)


def _create(folder: Path, storage: LoopDisk, form: str, point: str, content: bytes) -> _Overlay:
    directory, states = storage.mountpoint / "overlays", folder / f"states-{form}"
    states.mkdir()
    writer = PatternedWriter(directory / form / "patterned.raw", _SIZE, states)
    disk = _Disk(bytearray(content))
    overlay = _Overlay(folder / "repository", directory, form, disk, writer)
    overlay.create(point, _FORMS[form])
    return overlay


def _end(overlay: _Overlay) -> None:
    """Verify and stop an overlay; its images are intact, except that they may leak clusters."""
    with overlay.started():
        overlay.verify()
    subprocess.run(overlay.command("stop", overlay.name), check=True, capture_output=True)
    for image in (overlay.directory / overlay.name).glob("*.qcow2"):
        subprocess.run(["qemu-img", "check", "-q", "-r", "leaks", image], check=True)


@contextmanager
def _load(overlay: _Overlay, rnd: random.Random) -> Iterator[None]:
    """Write to the disks during the block, and until the end of the overlay."""
    stop = threading.Event()
    own = random.Random(rnd.random())
    writer = threading.Thread(target=overlay.disk.write_until_error, args=(overlay.raw, own, stop))
    writer.start()
    try:
        with overlay.patterned.running():
            yield
    finally:
        stop.set()
        writer.join()


def _ingest(path: Path, content: bytes) -> str:
    create_repository(path, new_settings(64 << 10, 1))
    with writing(path) as repository:
        objects = repository.object_writer()
        labels = "root", "patterned"
        disks = [DiskInput(label, ContentSource(content), label) for label in labels]
        options = PointOptions(datetime.now(UTC))
        try:
            return ingest_point(repository, objects, VmInput("vm"), disks, options).point
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


def _victim(start: int, fault: str, rnd: random.Random) -> int:
    """Return the process to kill: the start itself, a daemon, its mount or a worker of that."""
    if fault == "start":
        return start
    found = []
    for child in _children(start):
        is_daemon = b"--pidfile" in Path(f"/proc/{child}/cmdline").read_bytes()
        if is_daemon == (fault == "daemon"):
            found.append(_children(child)[0] if fault == "worker" else child)
    if not found:
        raise Violation(f"the overlay has no {fault}")
    return rnd.choice(found)


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
