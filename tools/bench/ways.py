"""Rows of the ways that people take through a mount: their own programs, from start to end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.machine import drop_pages
from tools.bench.programs import run
from tools.bench.reads import QEMU, WARM, chain_image, each_of, look_equal, point_file
from tools.bench.row import Row, in_turns
from tools.bench.servers import loop_mounted, qemu_exported
from tools.bench.stock import Chain

RAW_FILE: Final = "raw file"
_COPIES: Final = {
    "dd": 'dd if="$0" of=/dev/null bs=1M status=none',
    "dd, direct": 'dd if="$0" of=/dev/null bs=1M iflag=direct status=none',
    "qemu-img convert to qcow2": 'qemu-img convert -f raw -O qcow2 "$0" "$1"',
    "cp --sparse=always": 'cp --sparse=always "$0" "$1"',
}
"""A script for each way; $0 is the disk, $1 a file to be made."""
_TREES: Final = {
    "tar": 'tar -C "$0" -cf - . | cat >/dev/null',
    "find and sha256sum": 'find "$0" -xdev -type f -print0 | xargs -0 sha256sum >/dev/null',
}
"""The same with a file system; tar looks at no file where it writes to /dev/null itself."""


def copy_rows(bench: Bench) -> Iterator[Row]:
    """The whole disk at its last point, by programs that copy."""
    chain = bench.stock.mixed
    size = chain.image.stat().st_size
    with _shown(bench, chain, bench.sizes.deltas + 1) as files:
        look_equal(files)
        for name, script in _COPIES.items():

            def measure(path: Path, script: str = script) -> float:
                _let_go(path, chain)
                with bench.scratch() as scratch:
                    return size / run(["sh", "-c", script, path, scratch / "copy"]).seconds / 1e6

            samples = in_turns(each_of(files, measure), bench.sizes.few)
            yield Row(f"{name} of the disk", "MB/s", True, WARM, samples)


def tree_rows(bench: Bench) -> Iterator[Row]:
    """A loop-mounted ext4 with many small files."""
    yield from _trees(bench, bench.stock.files, 1, f"of {bench.sizes.files:,} small files")


def real_rows(bench: Bench) -> Iterator[Row]:
    """The Debian root file system at its last point."""
    real = bench.stock.real
    yield from _trees(bench, real.chain, real.points, f"of a Debian system, depth {real.points}")


def _trees(bench: Bench, chain: Chain, depth: int, what: str) -> Iterator[Row]:
    with _shown(bench, chain, depth) as files:
        look_equal(files)
        for name, script in _TREES.items():

            def measure(path: Path, script: str = script) -> float:
                _let_go(path, chain)
                with loop_mounted(path, bench.folder / "root") as root:
                    return run(["sh", "-c", script, root]).seconds

            samples = in_turns(each_of(files, measure), bench.sizes.few)
            yield Row(f"{name} {what}", "s", False, f"{WARM}, file system cold", samples)


def _let_go(path: Path, chain: Chain) -> None:
    """Drop the pages of a file that is shown; what lies below stays in memory, or is the file."""
    if path != chain.image:
        drop_pages(path)


@contextmanager
def _shown(bench: Bench, chain: Chain, depth: int) -> Iterator[dict[str, Path]]:
    """A disk at one point by cbtfs, by qemu-storage-daemon, and as a raw file."""
    with ExitStack() as stack:
        mounts = stack.enter_context(bench.mounts(chain.repository))
        files = {name: point_file(mount, depth) for name, mount in mounts.items()}
        image = chain_image(chain, depth)
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu.raw"))
        files[RAW_FILE] = chain.image
        yield files
