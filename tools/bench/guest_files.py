"""Rows on the files of guests: listings, one file, a large file, and the versions of a file."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from cbtfs.files.parsing import open_file_system
from cbtfs.files.volumes import volumes_of
from cbtfs.listing import points
from cbtfs.qemu.accelerator import choose_accelerator
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.debian import mounted_root
from tools.bench.programs import Program, run
from tools.bench.reads import point_file
from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.servers import loop_mounted
from tools.bench.take import VM, PointTaker, capturing, in_memory, new_repository

GUESTFISH: Final = "guestfish"
DEBUGFS: Final = "debugfs"
COPY: Final = "cp from a loop mount"
OPENED: Final = "opening each point"
_VERSIONS: Final = 5
_LOG_BYTES: Final = 24 << 20
_OTHERS: Final = 400
_FILE: Final = "etc/app.conf"
_LARGE: Final = "large"


def file_rows(bench: Bench) -> Iterator[Row]:
    """Measure `cbtfs files` against the programs that people use for the same."""
    yield from _of_many_files(bench)
    yield from _of_a_large_file(bench)
    yield from _of_a_history(bench)


def _of_many_files(bench: Bench) -> Iterator[Row]:
    """Measure a listing of all files, and one small file."""
    chain = bench.datasets.files
    disk = f"{VM}@latest"
    with bench.mounts(chain.repository) as mounts:
        raw = point_file(mounts[OURS], 1)
        path = f"/{0:04}/{1:06}"

        def listed(program: Program) -> Callable[[], float]:
            words = "files", "find", f"{disk}:/"
            return lambda: program.run(chain.repository, *words).seconds

        contenders = {program.name: listed(program) for program in bench.programs}
        goals = []
        if bench.sizes.has_guestfish and shutil.which(GUESTFISH):
            drive = "--ro", "--format=raw", "-a", str(raw), "-m", "/dev/sda"
            environment = _libguestfs()
            command = [GUESTFISH, *drive, "find", "/"]
            contenders[GUESTFISH] = lambda: run(command, environment).seconds
            goals = [Goal(20, GUESTFISH)]
        samples = alternate(contenders, bench.sizes.few)
        yield Row(
            f"list {bench.sizes.files:,} files of a guest", "s", False, "warm", samples, goals
        )

        def indexed(program: Program) -> Callable[[], float]:
            def measure() -> float:
                shutil.rmtree(chain.repository / "indexes", ignore_errors=True)
                return program.run(chain.repository, "files", "index", disk).seconds

            return measure

        contenders = {program.name: indexed(program) for program in bench.programs}
        samples = alternate(contenders, bench.sizes.few)
        yield Row(f"index {bench.sizes.files:,} files of a guest", "s", False, "warm", samples)

        def shown(program: Program) -> Callable[[], float]:
            return lambda: _cold(bench, program, chain.repository, f"{disk}:{path}")

        def debugfs() -> float:
            bench.drop_caches()
            return run([DEBUGFS, "-R", f"cat {path}", raw]).seconds

        contenders = {program.name: shown(program) for program in bench.programs}
        contenders[DEBUGFS] = debugfs
        samples = alternate(contenders, bench.sizes.repeats)
        name = "print one small file of a guest"
        yield Row(name, "s", False, "cold, start of the program included", samples, [Goal(0.5)])


def _libguestfs() -> dict[str, str]:
    """Return variables of libguestfs, which would try a KVM that does not work."""
    settings = "force_tcg" if choose_accelerator("auto") == "tcg" else ""
    return {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": settings}


def _cold(bench: Bench, program: Program, repository: Path, location: str) -> float:
    bench.drop_caches()
    return program.run(repository, "files", "cat", location).seconds


def _of_a_large_file(bench: Bench) -> Iterator[Row]:
    """Measure the extraction of a large file against a copy from a loop mount of the same point."""
    folder = bench.folder / "guest-file"
    folder.mkdir()
    size = bench.sizes.guest_file
    image = folder / "disk.raw"
    with image.open("wb") as file:
        file.truncate(size + size // 8 + (64 << 20))
    run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", image])
    with mounted_root(image, folder / "root") as root, (root / _LARGE).open("wb") as file:
        content = Content("guest-file")
        for _ in range(size // BLOCK):
            file.write(content.mixed())
    with capturing(new_repository(folder / "repository"), image) as take:
        take(None)
    repository = folder / "repository"
    with bench.mounts(repository) as mounts:
        raw = point_file(mounts[OURS], 1)

        def extracted(program: Program) -> Callable[[], float]:
            def measure() -> float:
                with bench.scratch() as scratch:
                    words = "files", "extract", f"{VM}@latest:/{_LARGE}", scratch / _LARGE
                    return size / program.run(repository, *words).seconds / 1e6

            return measure

        def copied() -> float:
            with bench.scratch() as scratch, loop_mounted(raw, bench.folder / "root") as root:
                return size / run(["cp", root / _LARGE, scratch / _LARGE]).seconds / 1e6

        contenders = {program.name: extracted(program) for program in bench.programs}
        samples = alternate({**contenders, COPY: copied}, bench.sizes.few)
    shutil.rmtree(folder)
    name = f"extract a file of {size >> 20} MiB"
    yield Row(name, "MB/s", True, "warm", samples, [Goal(0.7, COPY)])


def _of_a_history(bench: Bench) -> Iterator[Row]:
    """Measure `files log` against opening the file system of each point in one process."""
    history = History(bench.folder / "guest-history", bench.sizes.history)
    repository = history.repository

    def ours(program: Program) -> Callable[[], float]:
        return lambda: program.run(repository, "files", "log", f"{VM}:/{_FILE}").seconds

    contenders = {program.name: ours(program) for program in bench.programs}
    samples = alternate({**contenders, OPENED: lambda: open_each(repository)}, bench.sizes.few)
    shutil.rmtree(history.folder)
    count = min(_VERSIONS, bench.sizes.history)
    name = f"files log, {bench.sizes.history} points, {count} versions"
    yield Row(name, "s", False, "warm", samples, [Goal(20, OPENED)])


def open_each(repository: Path) -> float:
    """Return the seconds that it takes to open each point, and to look at the file."""
    start = time.perf_counter()
    with reading(repository) as opened:
        reader = Reader(opened)
        with opened.catalog.view() as view:
            manifests = [point.manifest for point in points(view)]
        for manifest in manifests:
            (volume,) = volumes_of(reader, manifest).shown
            file_system = open_file_system(volume)
            file_system.stat(f"/{_FILE}")
            list(file_system.extents(f"/{_FILE}"))
            file_system.close()
    return time.perf_counter() - start


class History:
    """Points of a guest that was running; one of its files has a few versions."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self._count = count

    @cached_property
    def repository(self) -> Path:
        """The repository, which is made at the first use."""
        self.folder.mkdir()
        repository = self.folder / "repository"
        with in_memory(repository) as path:
            # Beside the repository in memory: each point flushes the file system of the guest.
            image = path.with_name("disk.raw")
            with image.open("wb") as file:
                file.truncate(_LOG_BYTES)
            run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", image])
            with (
                mounted_root(image, self.folder / "root") as root,
                capturing(new_repository(path), image) as take,
            ):
                self._take_all(root, image, take)
            image.unlink()
        return repository

    def _take_all(self, root: Path, image: Path, take: PointTaker) -> None:
        source, every = random.Random("guest history"), max(self._count // _VERSIONS, 1)
        for name in ("etc", "var"):
            (root / name).mkdir()
        for number in range(_OTHERS):
            (root / "var" / f"{number}").write_bytes(source.randbytes(2000))
        before = b""
        for number in range(self._count):
            if number % every == 0:
                (root / _FILE).write_bytes(source.randbytes(5000 + number))
            for _ in range(5):
                (root / "var" / f"{source.randrange(_OTHERS)}").write_bytes(b"x" * 3000)
            run(["sync", "-f", root])
            data = image.read_bytes()
            take(_changed(before, data) if before else None)
            before = data


def _changed(before: bytes, after: bytes) -> list[int]:
    """Return the numbers of the blocks that differ."""
    ours, theirs = memoryview(before), memoryview(after)
    return [
        at // BLOCK
        for at in range(0, len(after), BLOCK)
        if ours[at : at + BLOCK] != theirs[at : at + BLOCK]
    ]
