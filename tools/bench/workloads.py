"""Rows on common programs that read through a mount, from start to end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.datasets import Chain
from tools.bench.machine import drop_pages
from tools.bench.programs import run
from tools.bench.reads import QEMU, WARM, bind_files, chain_image, check_equal, point_file
from tools.bench.row import Row, alternate
from tools.bench.servers import loop_mounted, qemu_exported

RAW_FILE: Final = "raw file"
_COPIES: Final = {
    "dd": 'dd if="$0" of=/dev/null bs=1M status=none',
    "dd, direct": 'dd if="$0" of=/dev/null bs=1M iflag=direct status=none',
    "qemu-img convert to qcow2": 'qemu-img convert -f raw -O qcow2 "$0" "$1"',
    "cp --sparse=always": 'cp --sparse=always "$0" "$1"',
}
"""Scripts that copy a disk; $0 is the disk, $1 the file to create."""
_TREES: Final = {
    "tar": 'tar -C "$0" -cf - . | cat >/dev/null',
    "find and sha256sum": 'find "$0" -xdev -type f -print0 | xargs -0 sha256sum >/dev/null',
}
"""Scripts that read a file system. tar reads no file if its output is /dev/null: use a pipe."""


def copy_rows(bench: Bench) -> Iterator[Row]:
    """Measure copies of the whole disk at its last point."""
    chain = bench.datasets.mixed
    size = chain.image.stat().st_size
    with _exported(bench, chain, bench.sizes.deltas + 1) as files:
        check_equal(files)
        for name, script in _COPIES.items():

            def measure(path: Path, script: str = script) -> float:
                _drop_cached(path, chain)
                with bench.scratch() as scratch:
                    return size / run(["sh", "-c", script, path, scratch / "copy"]).seconds / 1e6

            samples = alternate(bind_files(files, measure), bench.sizes.few)
            yield Row(f"{name} of the disk", "MB/s", True, WARM, samples)


def tree_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of a loop-mounted ext4 with many small files."""
    yield from _trees(bench, bench.datasets.files, 1, f"of {bench.sizes.files:,} small files")


def real_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of the Debian root file system at its last point."""
    real = bench.datasets.real
    yield from _trees(bench, real.chain, real.points, f"of a Debian system, depth {real.points}")


def _trees(bench: Bench, chain: Chain, depth: int, what: str) -> Iterator[Row]:
    with _exported(bench, chain, depth) as files:
        check_equal(files)
        for name, script in _TREES.items():

            def measure(path: Path, script: str = script) -> float:
                _drop_cached(path, chain)
                with loop_mounted(path, bench.folder / "root") as root:
                    return run(["sh", "-c", script, root]).seconds

            samples = alternate(bind_files(files, measure), bench.sizes.few)
            yield Row(f"{name} {what}", "s", False, f"{WARM}, file system cold", samples)


def _drop_cached(path: Path, chain: Chain) -> None:
    """Drop the cached pages of an exported file; the raw file and lower layers stay in memory."""
    if path != chain.image:
        drop_pages(path)


@contextmanager
def _exported(bench: Bench, chain: Chain, depth: int) -> Iterator[dict[str, Path]]:
    """Export a disk by cbtfs and qemu-storage-daemon; yield these files and the raw file."""
    with ExitStack() as stack:
        mounts = stack.enter_context(bench.mounts(chain.repository))
        files = {name: point_file(mount, depth) for name, mount in mounts.items()}
        image = chain_image(chain, depth)
        files[QEMU] = stack.enter_context(qemu_exported(image, bench.folder / "qemu.raw"))
        files[RAW_FILE] = chain.image
        yield files
