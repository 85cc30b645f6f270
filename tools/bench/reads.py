"""Rows on reads through a mount."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.mount.mountpoint import raise_read_ahead
from tools.bench.bench import Bench
from tools.bench.datasets import Chain
from tools.bench.programs import run
from tools.bench.row import Goal, Row, alternate
from tools.bench.servers import (
    empty_mounted,
    mounted,
    nbdfuse_exported,
    qemu_exported,
    worker_memory,
)
from tools.bench.take import DISK, VM

QEMU: Final = "qemu-storage-daemon"
QEMU_AHEAD: Final = "qemu-storage-daemon, read-ahead 4 MiB"
"""The same daemon with the kernel read-ahead that cbtfs sets on its mounts."""
NBDFUSE: Final = "nbdfuse"
EMPTY: Final = "empty pyfuse3"
WARM: Final = "repository warm, file cold"
DIRECT: Final = "repository warm, direct"
_STEP: Final = 1 << 20

Files = Mapping[str, Path]


class RandomShape(NamedTuple):
    """Size of random reads in bytes, and the number of reads in flight."""

    block: int
    queue: int

    @property
    def title(self) -> str:
        """Name of the row, e.g. `4 KiB random, queue 16`."""
        is_large = self.block >> 20
        size = f"{self.block >> 20} MiB" if is_large else f"{self.block >> 10} KiB"
        return f"{size} random, queue {self.queue}"


SHAPES: Final = (RandomShape(4096, 16), RandomShape(65536, 8))
"""Shapes of random reads that have goals."""


def point_file(mount: Path, depth: int) -> Path:
    """Return the disk file of the point number *depth* (from 1) of the only VM."""
    points = sorted(path for path in (mount / VM).iterdir() if not path.is_symlink())
    return points[depth - 1] / f"{DISK}.raw"


def read_all(path: Path, *, is_cold: bool = True) -> float:
    """Return MB/s of one sequential reader; drop the cached pages of the file before."""
    with path.open("rb", buffering=0) as file:
        if is_cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(_STEP)
        total = 0
        started = time.perf_counter()
        while count := file.readinto(buffer):
            total += count
        return total / (time.perf_counter() - started) / 1e6


def random_reads(
    bench: Bench, path: Path, shape: RandomShape, seed: int, area: Extent | None = None
) -> float:
    """Return direct random reads per second in *area* or the whole file, measured by fio."""
    within = [] if area is None else [f"--offset={area.start}", f"--size={area.length}"]
    result = run(
        [
            "fio",
            "--name=random",
            "--thread",  # a job process would survive a kill of fio
            f"--filename={path}",
            "--readonly",
            "--rw=randread",
            f"--bs={shape.block}",
            "--direct=1",
            "--ioengine=libaio",
            f"--iodepth={shape.queue}",
            "--time_based",
            f"--runtime={int(bench.sizes.fio_seconds * 1000)}ms",
            *("--randrepeat=0", f"--randseed={seed}"),  # With randrepeat fio ignores the seed.
            *within,
            *bench.sizes.fio_options,
            "--output-format=json",
        ]
    )
    document = json.loads(result.output[result.output.index("{") :])
    rate: float = document["jobs"][0]["read"]["iops"]
    return rate


def check_equal(files: Files, image: Path | None = None) -> None:
    """Raise CbtfsError unless all files have the same bytes."""
    paths = list(files.values()) if image is None else [image, *files.values()]
    for path in paths[1:]:
        run(["cmp", paths[0], path])


def chain_image(chain: Chain, depth: int) -> Path:
    """Return the qcow2 image of the first point or of the last point."""
    return chain.first_overlay if depth == 1 else chain.newest_overlay


@contextmanager
def at_depth(bench: Bench, chain: Chain, depth: int) -> Iterator[dict[str, Path]]:
    """Yield the exported disk at its first or last point, by contender."""
    image = chain_image(chain, depth)
    with ExitStack() as stack:
        mounts = stack.enter_context(bench.mounts(chain.repository))
        files = {name: point_file(mount, depth) for name, mount in mounts.items()}
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu.raw"))
        files[NBDFUSE] = stack.enter_context(nbdfuse_exported(image, bench.folder / "nbdfuse.raw"))
        check_equal(files, None if depth == 1 else chain.image)
        yield files


def chain_rows(bench: Bench) -> Iterator[Row]:
    """Measure sequential and random reads at the first and the last point of the mixed disk."""
    chain = bench.datasets.mixed
    newest = bench.sizes.deltas + 1
    for depth in (1, newest):
        has_goal = depth > 1
        with at_depth(bench, chain, depth) as files:
            with qemu_exported(chain_image(chain, depth), bench.folder / "ahead.raw") as ahead:
                raise_read_ahead(ahead)
                all_files = {**files, QEMU_AHEAD: ahead}
                goal = Goal(2.5, QEMU) if has_goal else None
                yield sequential_row(bench, f"sequential read, depth {depth}", all_files, goal)
            for shape in SHAPES:
                goal = Goal(1.5, QEMU) if has_goal else None
                yield random_row(bench, f"{shape.title}, depth {depth}", files, shape, goal)


def cold_rows(bench: Bench) -> Iterator[Row]:
    """Measure a sequential read with all caches empty."""
    newest = bench.sizes.deltas + 1
    with at_depth(bench, bench.datasets.mixed, newest) as files:

        def measure(path: Path) -> float:
            bench.drop_caches()
            return read_all(path)

        samples = alternate(bind_files(files, measure), bench.sizes.few)
        yield Row(f"sequential read, depth {newest}", "MB/s", True, "all cold", samples)


def raw_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of raw chunks, against the empty file system."""
    chain = bench.datasets.raw
    with (
        bench.mounts(chain.repository) as mounts,
        empty_mounted(bench.folder / "empty", bench.sizes.disk, bench.workers) as empty,
    ):
        newest = bench.sizes.deltas + 1
        files = {name: point_file(mount, newest) for name, mount in mounts.items()}
        check_equal(files, chain.image)
        files[EMPTY] = empty
        yield sequential_row(bench, "sequential read, stored raw", files, Goal(0.8, EMPTY))
        for shape in SHAPES:
            title = f"{shape.title}, stored raw"
            yield random_row(bench, title, files, shape, Goal(0.5, EMPTY))


def second_rows(bench: Bench) -> Iterator[Row]:
    """Measure a buffered read that the page cache of the kernel answers."""
    chain = bench.datasets.mixed
    with (
        bench.mounts(chain.repository) as mounts,
        empty_mounted(bench.folder / "empty", bench.sizes.disk, bench.workers) as empty,
    ):
        files = {name: point_file(mount, bench.sizes.deltas + 1) for name, mount in mounts.items()}
        files["raw file"] = chain.image
        files[EMPTY] = empty
        for path in files.values():
            read_all(path)
        samples = alternate(
            bind_files(files, lambda p: read_all(p, is_cold=False)), bench.sizes.repeats
        )
        goals = [Goal(0.9, "raw file")]
        yield Row("second buffered read", "MB/s", True, "file warm", samples, goals)


def memory_rows(bench: Bench) -> Iterator[Row]:
    """Measure the memory of a worker after sequential and random reads of the whole disk."""
    chain = bench.datasets.mixed
    at = bench.folder / "mount"
    samples: dict[str, list[float]] = {}
    for program in bench.programs:
        with mounted(program, chain.repository, at, bench.workers) as process:
            path = point_file(at, bench.sizes.deltas + 1)
            read_all(path)
            random_reads(bench, path, SHAPES[0], seed=1)
            sizes = [memory for memory in worker_memory(process) if memory]
            if not sizes:
                raise CbtfsError("the mount has no workers")
            samples[program.name] = [memory / (1 << 20) for memory in sizes]
    goals = [Goal(150)]
    yield Row("anonymous memory of a worker", "MiB", False, "after reads", samples, goals)


def bind_files(files: Files, measure: Callable[[Path], float]) -> dict[str, Callable[[], float]]:
    """Return a function per file that calls *measure* with this file."""

    def bound(path: Path) -> Callable[[], float]:
        return lambda: measure(path)

    return {name: bound(path) for name, path in files.items()}


def sequential_row(bench: Bench, name: str, files: Files, goal: Goal | None = None) -> Row:
    """Measure one sequential reader through the page cache."""
    repeats = bench.sizes.few if goal is None else bench.sizes.repeats
    samples = alternate(bind_files(files, read_all), repeats)
    goals = [] if goal is None else [goal]
    return Row(name, "MB/s", True, WARM, samples, goals)


def random_row(
    bench: Bench, name: str, files: Files, shape: RandomShape, goal: Goal | None = None
) -> Row:
    """Measure direct random reads."""
    turns = dict.fromkeys(files, 0)

    def measure(contender: str) -> Callable[[], float]:
        def sample() -> float:
            turns[contender] += 1
            return random_reads(bench, files[contender], shape, seed=turns[contender])

        return sample

    repeats = bench.sizes.few if goal is None else bench.sizes.repeats
    samples = alternate({name: measure(name) for name in files}, repeats)
    goals = [] if goal is None else [goal]
    return Row(name, "reads/s", True, DIRECT, samples, goals)
