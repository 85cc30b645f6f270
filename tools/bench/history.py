"""Rows on the history of a disk: which point wrote each block."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cbtfs.core.blockmap import diff
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.repository import reading, writing
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.fleet import WrittenDisk
from tools.bench.programs import Program
from tools.bench.row import Goal, Row, alternate
from tools.bench.take import DISK, VM, in_memory, new_repository

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_RUN: Final = 16
"""Consecutive blocks of a change: 1 MiB."""
_SHARE: Final = 0.01
_CHUNKS: Final = 64
"""Different chunks in all: block maps are compared, so the data does not matter."""
COMMANDS: Final = "cbtfs diff of each pair"
WALKS: Final = "diffs in one process"


def blame_rows(bench: Bench) -> Iterator[Row]:
    """Measure `cbtfs blame` against the differences of every point from the one before."""
    repository = bench.folder / "history"
    names = _make_history(repository, bench.sizes.large_disk, bench.sizes.history)

    def ours(program: Program) -> Callable[[], float]:
        return lambda: program.run(repository, "blame", f"{VM}@latest", DISK, "--json").seconds

    def commands() -> float:
        program = bench.programs[0]
        return sum(
            program.run(repository, "diff", before, after, DISK, "--json").seconds
            for before, after in pairwise(names)
        )

    def walks() -> float:
        start = time.perf_counter()
        with reading(repository) as opened:
            reader = Reader(opened)
            with opened.catalog.view() as view:
                disks = [point.manifest.disks[0] for point in points(view)]
            trees = [reader.disk(disk).tree() for disk in disks]
            for older, newer in pairwise(trees):
                for _ in diff(older, newer):
                    pass
        return time.perf_counter() - start

    contenders = {program.name: ours(program) for program in bench.programs}
    contenders |= {COMMANDS: commands, WALKS: walks}
    samples = alternate(contenders, bench.sizes.few)
    shutil.rmtree(repository)
    name = f"blame, {bench.sizes.large_disk >> 20} MiB disk, {bench.sizes.history} points of 1 %"
    yield Row(name, "s", False, "repository warm", samples, [Goal(10, COMMANDS)])


def _make_history(repository: Path, size: int, count: int) -> list[str]:
    """Create *count* points of a disk, each with 1 % of changes; return their ids."""
    choice, content = random.Random("history"), Content("history")
    chunks = [content.block("text") for _ in range(_CHUNKS)]
    disk = WrittenDisk(is_kept=True, size=size)
    blocks = disk.size // BLOCK
    names = list[str]()
    with in_memory(repository) as path, writing(new_repository(path)) as opened:
        objects = opened.object_writer()
        for number in range(count):
            runs = range(blocks // _RUN) if number == 0 else _some(choice, blocks // _RUN)
            disk.write_all(
                {run * _RUN + n: choice.choice(chunks) for run in runs for n in range(_RUN)}
            )
            moment = _EPOCH + timedelta(minutes=number)
            done = ingest_point(
                opened, objects, VmInput(VM), [DiskInput(DISK, disk, identity=DISK)],
                PointOptions(moment),
            )  # fmt: skip
            names.append(done.point)
        objects.close()
    return names


def _some(choice: random.Random, runs: int) -> list[int]:
    return choice.sample(range(runs), max(int(runs * _SHARE), 1))
