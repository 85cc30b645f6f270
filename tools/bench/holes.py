"""Rows on programs that copy a sparse disk and skip its holes."""

from collections.abc import Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.machine import drop_pages
from tools.bench.programs import Program, run
from tools.bench.reads import Files, bind_files, check_equal, point_file, read_all
from tools.bench.row import Goal, Measure, Row, alternate
from tools.bench.servers import mounted

SPARSE_FILE: Final = "sparse raw file"
_COPIES: Final = {
    "qemu-img convert": 'qemu-img convert -f raw -O raw "$0" "$1"',
    "cp": 'cp "$0" "$1"',
    "tar -S": 'tar -C "${0%/*}" -cSf - "${0##*/}" | cat >"$1"',
    "qemu-nbd and nbdcopy": 'nbdcopy -- [ qemu-nbd -r -f raw "$0" ] "$1"',
}
"""Scripts that copy a disk; $0 is the disk, $1 the file to create."""


class CacheState(Enum):
    """State of the caches before each copy.

    COLD and PAGES compare like with like. With REPOSITORY only cbtfs has to decode its data: the
    peer is in the page cache.
    """

    COLD = "both cold"
    PAGES = "both in the page cache"
    REPOSITORY = "repository warm, file cold; peer in the page cache"


def copy_rows(bench: Bench) -> Iterator[Row]:
    """Measure copies of a sparse disk from the mount, against the same disk as a sparse file."""
    chain = bench.datasets.mixed
    sparse = bench.folder / "sparse.raw"
    run(["cp", "--sparse=always", chain.image, sparse])
    try:
        with bench.mounts(chain.repository) as mounts:
            files = {name: _newest(bench, mount) for name, mount in mounts.items()}
            check_equal({**files, SPARSE_FILE: sparse})
            for name, script in _COPIES.items():
                for state in (CacheState.PAGES, CacheState.REPOSITORY):
                    yield _warm_row(bench, name, script, {**files, SPARSE_FILE: sparse}, state)
        for name, script in _COPIES.items():
            yield _cold_row(bench, name, script, sparse)
    finally:
        sparse.unlink()


def _newest(bench: Bench, mountpoint: Path) -> Path:
    return point_file(mountpoint, bench.sizes.deltas + 1)


def _row(name: str, state: CacheState, samples: dict[str, list[float]]) -> Row:
    goals = [Goal(0.7, SPARSE_FILE)]
    return Row(f"{name} of a sparse disk", "MB/s", True, state.value, samples, goals)


def _warm_row(bench: Bench, name: str, script: str, files: Files, state: CacheState) -> Row:
    def measure(path: Path) -> float:
        if state is CacheState.REPOSITORY and path != files[SPARSE_FILE]:
            drop_pages(path)
        else:
            read_all(path, is_cold=False)
        with bench.scratch() as scratch:
            return _copy(path, script, scratch)

    return _row(name, state, alternate(bind_files(files, measure), bench.sizes.repeats))


def _cold_row(bench: Bench, name: str, script: str, sparse: Path) -> Row:
    """Measure copies with empty caches.

    Each copy has a mount of its own: workers of an earlier copy would have decoded chunks in
    memory. The figure does not include the start of the mount.
    """

    def copy(path: Path) -> float:
        with bench.scratch() as scratch:
            bench.drop_caches()
            return _copy(path, script, scratch)

    def copy_mounted(program: Program) -> float:
        at = bench.folder / "mount"
        with mounted(program, bench.datasets.mixed.repository, at, bench.workers):
            return copy(_newest(bench, at))

    measures: dict[str, Measure] = {
        program.name: partial(copy_mounted, program) for program in bench.programs
    }
    measures[SPARSE_FILE] = partial(copy, sparse)
    return _row(name, CacheState.COLD, alternate(measures, bench.sizes.few))


def _copy(path: Path, script: str, folder: Path) -> float:
    """Copy a disk into *folder*; return MB/s of its size, holes included."""
    size = path.stat().st_size
    return size / run(["sh", "-c", script, path, folder / "copy"]).seconds / 1e6
