"""Rows on restores onto a file that holds an earlier point."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.machine import drop_pages
from tools.bench.pooled import PooledDisk
from tools.bench.programs import Program, run
from tools.bench.row import OURS, Goal, Row
from tools.bench.take import DISK, VM, capturing_source, new_repository

WHOLE: Final = "a whole restore"
READ: Final = "dd of the file to /dev/null"
"""No comparison with a cold file is faster than its storage."""
_RUN_BLOCKS: Final = (1 << 20) // BLOCK
_PARTS: Final = 100
"""One block, or one run of 1 MiB, of this number differs: 1 %."""
_CACHE: Final = "repository warm"


def rows(bench: Bench) -> Iterator[Row]:
    """Measure restores in place of a disk of which 1 % differs, against whole restores of it.

    The disk is full of data. The differing blocks are runs of 1 MiB, or single blocks.
    """
    with bench.scratch() as scratch:
        repository, target = new_repository(scratch / "repository"), scratch / "disk.raw"
        first, runs, single = _take_points(bench, repository)
        ours = Program(OURS)
        seconds: dict[str, list[float]] = {}

        def measure(name: str, point: str, *options: str) -> None:
            bench.settle()
            words: list[str | Path] = ["restore", point, DISK, target, *options]
            seconds.setdefault(name, []).append(ours.run(repository, *words).seconds)

        for _ in range(bench.sizes.few):
            target.unlink(missing_ok=True)
            measure(WHOLE, first, "--marker")
            measure("from, runs", runs, "--in-place", "--from", first)
            measure("from back", first, "--in-place", "--from", runs)
            measure("from, single blocks", single, "--in-place", "--from", first)
            drop_pages(target)
            measure("compare", first, "--in-place")
            bench.settle()
            drop_pages(target)
            reads = run(["dd", f"if={target}", "of=/dev/null", "bs=4M", "status=none"])
            seconds.setdefault(READ, []).append(reads.seconds)
            _cache(target)
            measure("compare, cached", single, "--in-place")
    size = f"{bench.sizes.large_disk >> 30} GiB" if bench.sizes.large_disk >> 30 else "small"
    row = partial(_row, f"in place, 1 % of a {size} disk differs", seconds)
    yield row("--from, runs of 1 MiB", "from, runs", _CACHE, Goal(20, WHOLE))
    yield row("--from, single blocks", "from, single blocks", _CACHE, Goal(20, WHOLE))
    yield row("--compare", "compare", f"{_CACHE}, file cold", Goal(2, WHOLE), READ)
    yield row("--compare", "compare, cached", f"{_CACHE}, file warm", Goal(2, WHOLE))


def _row(
    title: str,
    seconds: dict[str, list[float]],
    option: str,
    name: str,
    cache: str,
    goal: Goal,
    *others: str,
) -> Row:
    samples = {OURS: seconds[name], **{peer: seconds[peer] for peer in (WHOLE, *others)}}
    return Row(f"{title}: {option}", "s", False, cache, samples, [goal])


def _take_points(bench: Bench, repository: Path) -> tuple[str, str, str]:
    """Take three points; the second and the third differ from the first in 1 % of the blocks."""
    disk, content = PooledDisk(bench.sizes.large_disk, "in place"), Content("in place")
    blocks = disk.size // BLOCK
    starts = content.some_of(range(0, blocks, _RUN_BLOCKS), max(blocks // _RUN_BLOCKS // _PARTS, 1))
    runs = [start + at for start in starts for at in range(_RUN_BLOCKS)]
    single = content.some_of(range(blocks), blocks // _PARTS)
    with capturing_source(repository, lambda: disk) as take:
        take(None)
        disk.rewrite(runs)
        take(runs)
        disk.rewrite(runs)
        disk.rewrite(single)
        take(sorted({*runs, *single}))
    return f"{VM}@latest~2", f"{VM}@latest~1", f"{VM}@latest"


def _cache(path: Path) -> None:
    """Read a file into the page cache, as far as it fits."""
    piece = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass
