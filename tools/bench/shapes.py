"""Rows of reads of other sizes, by more readers, in other ways than the ones that have goals."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from tools.bench.bench import Bench
from tools.bench.machine import drop_pages
from tools.bench.reads import (
    NBDFUSE,
    QEMU,
    WARM,
    Files,
    at_depth,
    each_of,
    point_file,
    random_row,
)
from tools.bench.row import Row, in_turns
from tools.bench.servers import nbdfuse_exported, qemu_exported
from tools.bench.stock import Chain

_PAGE: Final = 4096
_SHAPES: Final = ((4096, 1), (65536, 1), (1 << 20, 1), (1 << 20, 16))
"""One at a time: what a round trip costs. 1 MiB: the largest request there is, queued or not."""
_READERS: Final = (2, 4)
"""As many as there are workers where goals are set, and more than that."""


@contextmanager
def _at_first(bench: Bench, chain: Chain, last: Files) -> Iterator[dict[str, Path]]:
    """The first point of the disk whose *last* point is shown already."""
    with ExitStack() as stack:
        ours = {name: path for name, path in last.items() if name not in (QEMU, NBDFUSE)}
        files = {name: point_file(path.parents[2], 1) for name, path in ours.items()}
        image = chain.first_overlay
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu1.raw"))
        files[NBDFUSE] = stack.enter_context(nbdfuse_exported(image, bench.folder / "nbd1.raw"))
        yield files


def shape_rows(bench: Bench) -> Iterator[Row]:
    """Other sizes, queues and numbers of readers, at the last point of the mixed disk."""
    newest = bench.sizes.deltas + 1
    chain = bench.stock.mixed
    with at_depth(bench, chain, newest) as files:
        for block, queue in _SHAPES:
            name = f"{_size(block)} random, queue {queue}, depth {newest}"
            yield random_row(bench, name, files, block, queue, QEMU, None)
        repeats = bench.sizes.few
        for readers in _READERS:

            def together(path: Path, readers: int = readers) -> float:
                return read_together([path], readers)

            samples = in_turns(each_of(files, together), repeats)
            name = f"{readers} readers in sequence, depth {newest}"
            yield Row(name, "MB/s", True, WARM, samples)
        samples = in_turns(each_of(files, read_mapped), repeats)
        yield Row(f"mmap, a byte of each page, depth {newest}", "MB/s", True, WARM, samples)
    with at_depth(bench, chain, newest) as last, _at_first(bench, chain, last) as first:
        pairs = {name: [path, first[name]] for name, path in last.items()}

        def both(name: str) -> Callable[[], float]:
            return lambda: read_together(pairs[name], 2)

        samples = in_turns({name: both(name) for name in pairs}, repeats)
        yield Row(f"two points at once, depth 1 and {newest}", "MB/s", True, WARM, samples)


def read_together(paths: Sequence[Path], readers: int) -> float:
    """MB/s of all readers, who take parts of a file each, or a file each."""
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
    """MB/s through a mapping: the kernel asks for what a fault is about."""
    drop_pages(path)
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        started = time.perf_counter()
        sum(mapped[::_PAGE])
        return len(mapped) / (time.perf_counter() - started) / 1e6


def _size(block: int) -> str:
    return f"{block >> 20} MiB" if block >> 20 else f"{block >> 10} KiB"
