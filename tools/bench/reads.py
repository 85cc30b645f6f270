"""Rows of reading through a mount."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from cbtfs.mount.mountpoint import raise_read_ahead
from tools.bench.bench import Bench
from tools.bench.machine import drop_caches
from tools.bench.programs import run
from tools.bench.row import Goal, Row, in_turns
from tools.bench.servers import (
    empty_mounted,
    mounted,
    nbdfuse_exported,
    qemu_exported,
    worker_memory,
)
from tools.bench.stock import Chain
from tools.bench.take import DISK, VM

QEMU: Final = "qemu-storage-daemon"
QEMU_AHEAD: Final = "qemu-storage-daemon, read-ahead 4 MiB"
"""What it would be if its user knew how to make the kernel read ahead as cbtfs does."""
NBDFUSE: Final = "nbdfuse"
EMPTY: Final = "empty pyfuse3"
WARM: Final = "repository warm, file cold"
DIRECT: Final = "repository warm, direct"
_STEP: Final = 1 << 20

Files = Mapping[str, Path]


def point_file(mount: Path, depth: int) -> Path:
    """The disk at the point number *depth* of the only VM, from 1."""
    points = sorted(each for each in (mount / VM).iterdir() if not each.is_symlink())
    return points[depth - 1] / f"{DISK}.raw"


def read_all(path: Path, *, is_cold: bool = True) -> float:
    """MB/s of one reader from start to end; the file's own pages are dropped before."""
    with path.open("rb", buffering=0) as file:
        if is_cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(_STEP)
        total = 0
        started = time.perf_counter()
        while count := file.readinto(buffer):
            total += count
        return total / (time.perf_counter() - started) / 1e6


def random_reads(bench: Bench, path: Path, block: int, depth: int, seed: int) -> float:
    """Reads a second, at random places, past the page cache, so many at a time."""
    done = run(
        [
            "fio",
            "--name=random",
            "--thread",  # a process for the job would outlive one that is killed
            f"--filename={path}",
            "--readonly",
            "--rw=randread",
            f"--bs={block}",
            "--direct=1",
            "--ioengine=libaio",
            f"--iodepth={depth}",
            "--time_based",
            f"--runtime={int(bench.sizes.fio_seconds * 1000)}ms",
            f"--randseed={seed}",
            "--output-format=json",
        ]
    )
    document = json.loads(done.output[done.output.index("{") :])
    rate: float = document["jobs"][0]["read"]["iops"]
    return rate


def look_equal(files: Files, image: Path | None = None) -> None:
    """CbtfsError unless all show the same bytes: what is fast must be right first."""
    paths = list(files.values()) if image is None else [image, *files.values()]
    for path in paths[1:]:
        run(["cmp", paths[0], path])


def chain_image(chain: Chain, depth: int) -> Path:
    """The qcow2 image of the mixed disk at its first or its last point."""
    return chain.first_overlay if depth == 1 else chain.newest_overlay


@contextmanager
def at_depth(bench: Bench, chain: Chain, depth: int) -> Iterator[dict[str, Path]]:
    """The mixed disk at its first or its last point, as everybody shows it."""
    image = chain_image(chain, depth)
    with ExitStack() as stack:
        mounts = stack.enter_context(bench.mounts(chain.repository))
        files = {name: point_file(mount, depth) for name, mount in mounts.items()}
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu.raw"))
        files[NBDFUSE] = stack.enter_context(nbdfuse_exported(image, bench.folder / "nbdfuse.raw"))
        look_equal(files, None if depth == 1 else chain.image)
        yield files


def chain_rows(bench: Bench) -> Iterator[Row]:
    """Sequential and random reads at the first and the last point of the mixed disk."""
    chain = bench.stock.mixed
    newest = bench.sizes.deltas + 1
    for depth in (1, newest):
        goal = 2.5 if depth > 1 else None
        with at_depth(bench, chain, depth) as files:
            with qemu_exported(chain_image(chain, depth), bench.folder / "ahead.raw") as ahead:
                raise_read_ahead(ahead)
                every = {**files, QEMU_AHEAD: ahead}
                yield sequential_row(bench, f"sequential read, depth {depth}", every, QEMU, goal)
            for block, queue in ((4096, 16), (65536, 8)):
                name = f"{block // 1024} KiB random, queue {queue}, depth {depth}"
                yield random_row(bench, name, files, block, queue, QEMU, 1.5 if depth > 1 else None)


def cold_rows(bench: Bench) -> Iterator[Row]:
    """Sequential read with nothing in memory."""
    newest = bench.sizes.deltas + 1
    with at_depth(bench, bench.stock.mixed, newest) as files:

        def measure(path: Path) -> float:
            drop_caches()
            return read_all(path)

        samples = in_turns(each_of(files, measure), bench.sizes.few)
        yield Row(f"sequential read, depth {newest}", "MB/s", True, "all cold", samples)


def raw_rows(bench: Bench) -> Iterator[Row]:
    """Chunks that are stored raw, against a file system that has nothing to do."""
    chain = bench.stock.raw
    with (
        bench.mounts(chain.repository) as mounts,
        empty_mounted(bench.folder / "empty", bench.sizes.disk, bench.workers) as empty,
    ):
        newest = bench.sizes.deltas + 1
        files = {name: point_file(mount, newest) for name, mount in mounts.items()}
        look_equal(files, chain.image)
        files[EMPTY] = empty
        yield sequential_row(bench, "sequential read, stored raw", files, EMPTY, 0.8)
        name = "4 KiB random, queue 16, stored raw"
        yield random_row(bench, name, files, 4096, 16, EMPTY, 0.5)
        name = "64 KiB random, queue 8, stored raw"
        yield random_row(bench, name, files, 65536, 8, EMPTY, 0.5)


def second_rows(bench: Bench) -> Iterator[Row]:
    """A read of what the kernel's page cache has already."""
    chain = bench.stock.mixed
    with (
        bench.mounts(chain.repository) as mounts,
        empty_mounted(bench.folder / "empty", bench.sizes.disk, bench.workers) as empty,
    ):
        files = {name: point_file(mount, bench.sizes.deltas + 1) for name, mount in mounts.items()}
        files["raw file"] = chain.image
        files[EMPTY] = empty
        for path in files.values():
            read_all(path)
        samples = in_turns(
            each_of(files, lambda p: read_all(p, is_cold=False)), bench.sizes.repeats
        )
        goals = [Goal(0.9, "raw file")]
        yield Row("second buffered read", "MB/s", True, "file warm", samples, goals)


def memory_rows(bench: Bench) -> Iterator[Row]:
    """What a worker has grown to once the whole disk was read in sequence and at random."""
    chain = bench.stock.mixed
    at = bench.folder / "mount"
    samples: dict[str, list[float]] = {}
    for program in bench.programs:
        with mounted(program, chain.repository, at, bench.workers) as process:
            path = point_file(at, bench.sizes.deltas + 1)
            read_all(path)
            random_reads(bench, path, 4096, 16, seed=1)
            found = [memory for memory in worker_memory(process) if memory]
            if not found:
                raise CbtfsError("the mount has no workers")
            samples[program.name] = [memory / (1 << 20) for memory in found]
    goals = [Goal(150)]
    yield Row("anonymous memory of a worker", "MiB", False, "after reads", samples, goals)


def each_of(files: Files, measure: Callable[[Path], float]) -> dict[str, Callable[[], float]]:
    """*measure* of each file, to be called later."""

    def bound(path: Path) -> Callable[[], float]:
        return lambda: measure(path)

    return {name: bound(path) for name, path in files.items()}


def sequential_row(bench: Bench, name: str, files: Files, peer: str, goal: float | None) -> Row:
    """From start to end, one reader, through the page cache."""
    repeats = bench.sizes.few if goal is None else bench.sizes.repeats
    samples = in_turns(each_of(files, read_all), repeats)
    goals = [] if goal is None else [Goal(goal, peer)]
    return Row(name, "MB/s", True, WARM, samples, goals)


def random_row(
    bench: Bench, name: str, files: Files, block: int, queue: int, peer: str, goal: float | None
) -> Row:
    """At random places, past the page cache."""
    turns = dict.fromkeys(files, 0)

    def measure(contender: str) -> Callable[[], float]:
        def sample() -> float:
            turns[contender] += 1
            return random_reads(bench, files[contender], block, queue, seed=turns[contender])

        return sample

    repeats = bench.sizes.few if goal is None else bench.sizes.repeats
    samples = in_turns({each: measure(each) for each in files}, repeats)
    goals = [] if goal is None else [Goal(goal, peer)]
    return Row(name, "reads/s", True, DIRECT, samples, goals)
