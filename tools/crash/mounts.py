"""Campaign: kill workers and mounts under the load of fio, readers and a loop device."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.image import ImageSource
from cbtfs.store.repository import create_repository, writing
from cbtfs.store.settings import new_settings
from tools.crash.campaign import expect_success
from tools.crash.child import run_child
from tools.crash.mounted import (
    MountProcess,
    ReadCounts,
    ReaderProcess,
    direct,
    failed_mount,
    files,
    loop_mounted,
    reopened,
    serving,
    wait_until,
)
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

_WORKERS_A_MOUNT: Final = 4
"""Workers to kill before the mount: the fifth death within ten seconds would end the mount."""
_WORKERS: Final = 2
_BLOCK: Final = 16 << 10
_SIZE: Final = 16 << 20
_FILES: Final = 12
_BETWEEN_SECONDS: Final = 0.3
"""Maximum time between two kills."""
_MOUNT_FAILED: Final = 40
_FIO: Final = (
    *("fio", "--name=look", "--ioengine=psync", f"--bs={_BLOCK}", "--verify=crc32c"),
    "--verify_state_save=0",  # a killed fio would leave a state file behind
)


@dataclass(frozen=True, slots=True)
class _Setup:
    """A repository with one point of two disks, and the content of the disks."""

    folder: Path
    repository: Path
    pattern: bytes
    """Content of a disk that fio wrote, with a checksum in each block."""
    guest: bytes
    """Content of a disk with an ext4 file system."""
    contents: dict[str, bytes]
    """Files of the ext4 file system by name."""

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    def disk(self, name: str) -> Path:
        return self.mountpoint / "vm" / "latest" / f"{name}.raw"


def mounts(folder: Path, seed: int, count: int) -> CampaignResult:
    """Kill four workers, then the mount, until *count* processes are killed; remount each time."""
    rnd = random.Random(seed)
    setup = _set_up(folder, rnd)
    counts, verified, done, whole = ReadCounts(), 0, 0, 0
    with (folder / "log").open("w") as log:
        while done < count:
            workers = min(_WORKERS_A_MOUNT, count - done - 1)
            with serving(setup.repository, setup.mountpoint, log) as server:
                verified += _kill_under_load(setup, server, rnd, workers, counts)
            done += workers + 1
            whole += 1
        with serving(setup.repository, setup.mountpoint, log) as server:
            for name, image in (("pattern", setup.pattern), ("guest", setup.guest)):
                if setup.disk(name).read_bytes() != image:
                    raise Violation(f"disk {name} returns wrong bytes at the end")
            server.unmount()
    errors = ", ".join(f"{name} {number}" for name, number in sorted(counts.errors.items()))
    note = (
        f"{done - whole} workers and {whole} mounts; {counts.correct} reads compared, "
        f"{verified} more verified by fio; refused: {errors or 'none'}"
    )
    return CampaignResult("mounts", done, "SIGKILL", 1, 0, 0, note)


def _kill_under_load(
    setup: _Setup, server: MountProcess, rnd: random.Random, workers: int, counts: ReadCounts
) -> int:
    """Kill *workers* workers, then the mount, under load; return the blocks that fio verified."""
    guest = setup.folder / "guest.mnt"
    with ExitStack() as stack:
        loop = stack.enter_context(loop_mounted(setup.disk("guest"), guest))
        fio = stack.enter_context(Fio(setup))
        pattern, inner = direct(setup.disk("pattern"), setup.pattern), files(guest, setup.contents)
        readers = [
            stack.enter_context(ReaderProcess(read, rnd.randrange(1 << 30)))
            for read in (pattern, reopened(setup.disk("guest"), setup.guest), inner)
        ]
        for _ in range(workers):
            time.sleep(rnd.random() * _BETWEEN_SECONDS)
            server.kill_worker(rnd)
            if setup.disk("pattern").read_bytes() != setup.pattern or not inner(rnd):
                raise Violation("a disk returns wrong bytes after the death of a worker")
        time.sleep(rnd.random() * _BETWEEN_SECONDS)
        server.kill()
        verified = fio.end()
        totals = [reader.end() for reader in readers]
        _expect_refusal(setup, loop)
    wait_until(lambda: not _is_on(loop, setup.mountpoint), f"{loop} to be free")
    for total in totals[:2]:  # the third reads through ext4: one read causes several requests
        failed = total.errors.total() - total.errors["ENOTCONN"]
        if failed > workers + _WORKERS:
            raise Violation(f"{workers} workers were killed, a reader reports {total.errors}")
    for total in totals:
        counts.add(total)
    return verified


def _is_on(loop: Path, mountpoint: Path) -> bool:
    """Whether a loop device still uses a file below *mountpoint*."""
    try:
        file = Path("/sys/block", loop.name, "loop", "backing_file").read_text()
    except OSError:
        return False
    return file.startswith(f"{mountpoint}/")


def _expect_refusal(setup: _Setup, loop: Path) -> None:
    """Verify that a mount over a busy dead mount fails and names the loop device."""
    code, message = failed_mount(setup.repository, setup.mountpoint)
    if code != _MOUNT_FAILED or str(loop) not in message:
        raise Violation(f"a mount over a dead one in use by {loop} exited with {code}: {message}")


class Fio:
    """A running fio that reads the pattern disk and verifies its checksums."""

    def __init__(self, setup: _Setup) -> None:
        self._disk = setup.disk("pattern")
        self._result, self._output = setup.folder / "fio.json", setup.folder / "fio.log"

    def __enter__(self) -> "Fio":
        options = ["--rw=randread", "--readonly", "--direct=1", "--verify_fatal=1", "--thread"]
        options += ["--continue_on_error=io", "--time_based", "--runtime=3600"]
        output = ["--output-format=json", f"--output={self._result}"]
        with self._output.open("wb") as log:
            self._process = subprocess.Popen(
                [*_FIO, f"--filename={self._disk}", *options, *output], stdout=log, stderr=log
            )
        try:
            wait_until(self._has_begun, "the start of fio")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _has_begun(self) -> bool:
        for fd in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.path.basename(os.readlink(fd)) == self._disk.name:
                    return True
        return False

    def end(self) -> int:
        """End fio and return the number of verified blocks; raise Violation if one is wrong."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        output = self._output.read_text()
        if "verify" in output:
            raise Violation(f"fio reports {output[:1000]}")
        text = self._result.read_text()
        (job,) = json.loads(text[text.index("{") :])["jobs"]
        return int(job["read"]["total_ios"])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _set_up(folder: Path, rnd: random.Random) -> _Setup:
    pattern, guest = folder / "pattern.raw", folder / "guest.raw"
    for name in ("mnt", "guest.mnt"):
        (folder / name).mkdir()
    options = ["--rw=write", "--do_verify=0", f"--size={_SIZE}", f"--filename={pattern}"]
    subprocess.run([*_FIO, *options], check=True, stdout=subprocess.DEVNULL)
    contents = {f"file{n}": rnd.randbytes(rnd.randrange(1 << 19)) for n in range(_FILES)}
    inner = folder / "guest"
    inner.mkdir()
    for name, content in contents.items():
        (inner / name).write_bytes(content)
    with guest.open("wb") as file:
        file.truncate(_SIZE)
    subprocess.run(["mkfs.ext4", "-qF", "-d", inner, guest], check=True)
    repository = folder / "repository"
    expect_success(run_child(lambda send: _capture(repository, [pattern, guest])))
    return _Setup(folder, repository, pattern.read_bytes(), guest.read_bytes(), contents)


def _capture(repository: Path, images: list[Path]) -> None:
    create_repository(repository, new_settings(64 << 10, 1))
    with (
        writing(repository) as opened,
        closing(opened.object_writer()) as objects,
        ExitStack() as stack,
    ):
        disks = [
            DiskInput(image.stem, stack.enter_context(closing(ImageSource(image))), image.stem)
            for image in images
        ]
        options = PointOptions(datetime.now(UTC), "full")
        ingest_point(opened, objects, VmInput("vm"), disks, options)
