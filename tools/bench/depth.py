"""Rows on law 5: the cost of reading the last of many points, compared with the first."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Final

from cbtfs import listing
from cbtfs.core.manifest import DiskRecord
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository, reading
from tools.bench.bench import Bench
from tools.bench.content import BLOCK
from tools.bench.datasets import DeepChain
from tools.bench.footprint import counted_lookups
from tools.bench.reads import (
    DIRECT,
    NBDFUSE,
    QEMU,
    SHAPES,
    bind_files,
    check_equal,
    point_file,
    random_row,
    sequential_row,
)
from tools.bench.row import OURS, Curve, Goal, Row, alternate
from tools.bench.servers import nbdfuse_exported, qemu_exported
from tools.bench.take import VM

_PIECE: Final = 4096
_ROUNDS: Final = 40
FIRST: Final = "the first point"


def depth_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of blocks that every point rewrote, at the last point and at the first."""
    chain = bench.datasets.deep
    repeats = bench.sizes.repeats * 2 + 1
    with reading(chain.repository) as repository:
        first, newest = _ends(repository)
        samples = alternate(
            {
                OURS: lambda: _fresh(repository, newest, chain),
                FIRST: lambda: _fresh(repository, first, chain),
            },
            repeats,
        )
        facts = {
            f"look-ups at depth {chain.points}": _lookups(repository, newest, chain),
            "look-ups at depth 1": _lookups(repository, first, chain),
        }
    yield Row(
        f"rewritten blocks at depth {chain.points}, a new reader",
        "reads/s",
        True,
        "repository warm, reader cold",
        samples,
        [Goal(0.95, FIRST)],
        facts=facts,
    )
    with bench.mounts(chain.repository) as mounts:
        files = {name: point_file(mount, chain.points) for name, mount in mounts.items()}
        files[FIRST] = point_file(mounts[OURS], 1)
        samples = alternate(bind_files(files, lambda path: _direct(path, chain)), repeats)
        name = f"rewritten blocks at depth {chain.points}, 4 KiB through the mount"
        yield Row(name, "reads/s", True, DIRECT, samples, [Goal(0.95, FIRST)])


def curve_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of the whole disk at increasing depths, with qcow2 chains of equal length."""
    chain = bench.datasets.deep
    for depth in bench.sizes.depths:
        with ExitStack() as stack:
            mounts = stack.enter_context(bench.mounts(chain.repository))
            files = {name: point_file(mount, depth) for name, mount in mounts.items()}
            for name, show in ((QEMU, qemu_exported), (NBDFUSE, nbdfuse_exported)):
                shown = show(chain.overlay(depth), bench.folder / f"{name}.raw")
                files[name] = stack.enter_context(shown)
            check_equal(files)
            yield _at(depth, sequential_row(bench, "sequential read", files))
            for shape in SHAPES:
                yield _at(depth, random_row(bench, shape.title, files, shape))


def _at(depth: int, row: Row) -> Row:
    """Return *row* as a point of a curve at *depth*."""
    curve = Curve("reads", row.name, dict.fromkeys(row.samples, float(depth)))
    return replace(row, name=f"{row.name}, deep chain, depth {depth}", curve=curve)


def _ends(repository: Repository) -> tuple[DiskRecord, DiskRecord]:
    with repository.catalog.view() as view:
        vm = listing.find_vm(view, VM)
        points = list(listing.points(view, vm.id))
    return points[0].manifest.disks[0], points[-1].manifest.disks[0]


def _fresh(repository: Repository, record: DiskRecord, chain: DeepChain) -> float:
    """Return whole-block reads per second of new readers with empty caches."""
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        disk = Reader(repository).disk(record)
        for block in chain.blocks:
            disk.read(block * BLOCK, BLOCK)
    return _ROUNDS * len(chain.blocks) / (time.perf_counter() - started)


def _lookups(repository: Repository, record: DiskRecord, chain: DeepChain) -> int:
    with counted_lookups() as count:
        disk = Reader(repository).disk(record)
        for block in chain.blocks:
            disk.read(block * BLOCK, BLOCK)
        return count()


def _direct(path: Path, chain: DeepChain) -> float:
    """Return direct 4 KiB reads per second, one at a time, in random order."""
    offsets = [b * BLOCK + at for b in chain.blocks for at in range(0, BLOCK, _PIECE)]
    random.Random(1).shuffle(offsets)
    buffer = mmap(-1, _PIECE)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        started = time.perf_counter()
        for offset in offsets:
            os.preadv(fd, [buffer], offset)
        return len(offsets) / (time.perf_counter() - started)
    finally:
        os.close(fd)
        buffer.close()
