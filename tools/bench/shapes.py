"""Rows on reads without a goal: other sizes, several readers, mmap."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from tools.bench.bench import Bench
from tools.bench.datasets import Chain
from tools.bench.machine import drop_pages
from tools.bench.reads import (
    NBDFUSE,
    QEMU,
    WARM,
    Files,
    RandomShape,
    at_depth,
    bind_files,
    point_file,
    random_row,
)
from tools.bench.row import Row, alternate
from tools.bench.servers import nbdfuse_exported, qemu_exported

_PAGE: Final = 4096
_SHAPES: Final = tuple(
    RandomShape(block, queue)
    for block, queue in ((4096, 1), (65536, 1), (1 << 20, 1), (1 << 20, 16))
)
"""Queue 1 gives the cost of a round trip; 1 MiB is the largest request of FUSE."""
_READERS: Final = (2, 4)
"""As many readers as workers on the reference machine of the goals, and twice as many."""


@contextmanager
def _at_first(bench: Bench, chain: Chain, last: Files) -> Iterator[dict[str, Path]]:
    """Yield the exported first point of the disk whose *last* point is already exported."""
    with ExitStack() as stack:
        ours = {name: path for name, path in last.items() if name not in (QEMU, NBDFUSE)}
        files = {name: point_file(path.parents[2], 1) for name, path in ours.items()}
        image = chain.first_overlay
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu1.raw"))
        files[NBDFUSE] = stack.enter_context(nbdfuse_exported(image, bench.folder / "nbd1.raw"))
        yield files


def shape_rows(bench: Bench) -> Iterator[Row]:
    """Measure other sizes, queues and numbers of readers at the last point of the mixed disk."""
    newest = bench.sizes.deltas + 1
    chain = bench.datasets.mixed
    with at_depth(bench, chain, newest) as files:
        for shape in _SHAPES:
            yield random_row(bench, f"{shape.title}, depth {newest}", files, shape)
        repeats = bench.sizes.few
        for readers in _READERS:

            def together(path: Path, readers: int = readers) -> float:
                return read_together([path], readers)

            samples = alternate(bind_files(files, together), repeats)
            name = f"{readers} sequential readers, depth {newest}"
            yield Row(name, "MB/s", True, WARM, samples)
        samples = alternate(bind_files(files, read_mapped), repeats)
        yield Row(f"mmap, one byte per page, depth {newest}", "MB/s", True, WARM, samples)
    with at_depth(bench, chain, newest) as last, _at_first(bench, chain, last) as first:
        pairs = {name: [path, first[name]] for name, path in last.items()}

        def both(name: str) -> Callable[[], float]:
            return lambda: read_together(pairs[name], 2)

        samples = alternate({name: both(name) for name in pairs}, repeats)
        yield Row(f"two points at once, depth 1 and {newest}", "MB/s", True, WARM, samples)


def read_together(paths: Sequence[Path], readers: int) -> float:
    """Return the total MB/s of all readers; each reads one part of a file."""
    parts = readers // len(paths)
    for path in paths:
        drop_pages(path)
    commands = []
    for path in paths:
        mib = path.stat().st_size >> 20
        for part in range(parts):
            start, end = mib * part // parts, mib * (part + 1) // parts
            words = [f"if={path}", "of=/dev/null", "bs=1M", f"skip={start}", f"count={end - start}"]
            commands.append(["dd", "status=none", *words])
    started = time.perf_counter()
    running = [subprocess.Popen(command) for command in commands]
    if any(process.wait() for process in running):
        raise CbtfsError(f"a reader of {paths[0]} failed")
    return sum(path.stat().st_size for path in paths) / (time.perf_counter() - started) / 1e6


def read_mapped(path: Path) -> float:
    """Return MB/s of reads through a memory mapping: page faults cause the requests."""
    drop_pages(path)
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        started = time.perf_counter()
        sum(mapped[::_PAGE])
        return len(mapped) / (time.perf_counter() - started) / 1e6
