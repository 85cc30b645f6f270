"""Rows on programs that copy a sparse disk and skip its holes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.machine import drop_pages
from tools.bench.programs import run
from tools.bench.reads import WARM, bind_files, check_equal, point_file
from tools.bench.row import Goal, Row, alternate

SPARSE_FILE: Final = "sparse raw file"
_COPIES: Final = {
    "qemu-img convert": 'qemu-img convert -f raw -O raw "$0" "$1"',
    "cp": 'cp "$0" "$1"',
    "tar -S": 'tar -C "${0%/*}" -cSf - "${0##*/}" | cat >"$1"',
    "qemu-nbd and nbdcopy": 'nbdcopy -- [ qemu-nbd -r -f raw "$0" ] "$1"',
}
"""Scripts that copy a disk; $0 is the disk, $1 the file to create."""


def copy_rows(bench: Bench) -> Iterator[Row]:
    """Measure copies of a sparse disk from the mount, against the same disk as a sparse file.

    The file is in the page cache. Of the mounted disk only the repository's packs are.
    """
    chain = bench.datasets.mixed
    size = chain.image.stat().st_size
    sparse = bench.folder / "sparse.raw"
    run(["cp", "--sparse=always", chain.image, sparse])
    try:
        with bench.mounts(chain.repository) as mounts:
            newest = bench.sizes.deltas + 1
            files = {name: point_file(mount, newest) for name, mount in mounts.items()}
            files[SPARSE_FILE] = sparse
            check_equal(files)
            for name, script in _COPIES.items():

                def measure(path: Path, script: str = script) -> float:
                    if path != sparse:
                        drop_pages(path)
                    with bench.scratch() as scratch:
                        seconds = run(["sh", "-c", script, path, scratch / "copy"]).seconds
                    return size / seconds / 1e6

                samples = alternate(bind_files(files, measure), bench.sizes.repeats)
                goals = [Goal(0.7, SPARSE_FILE)]
                yield Row(f"{name} of a sparse disk", "MB/s", True, WARM, samples, goals)
    finally:
        sparse.unlink()
