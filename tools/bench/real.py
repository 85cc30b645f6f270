"""The real disk: created once, kept outside the checkout, replayed for each run."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tools.bench.content import BLOCK
from tools.bench.debian import STEPS, DebianSystem, find_mirror, make_disk, mounted_root
from tools.bench.programs import run

KEPT: Final = Path(os.environ.get("CBTFS_BENCH_CACHE", "/var/cache/cbtfs-bench"))
_NAME: Final = "debian-1"
"""Folder name; increase the number when STEPS change, so that the disk is created again."""
_SEED: Final = 1
_STEP: Final = 4 << 20


def make_real() -> Path:
    """Return the folder of the real disk; create the disk if it does not exist.

    Raises CbtfsError with the reason if the disk cannot be created: debootstrap is missing, or
    there is no mirror or no network.
    """
    if (KEPT / _NAME).is_dir():
        return KEPT / _NAME
    mirror = find_mirror()
    KEPT.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=KEPT))
    try:
        image, before = folder / "now.raw", folder / "disk.raw"
        make_disk(image)
        system = DebianSystem(folder / "root", mirror, _SEED)
        for number, step in enumerate(STEPS):
            with mounted_root(image, folder / "root"):
                step(system)
            if number:
                save_delta(folder / f"{number}.delta", before, image)
            copy = before if not number else folder / "last.raw"
            run(["cp", "--sparse=always", image, copy])
            if number:
                os.replace(folder / "last.raw", folder / "previous.raw")
                before = folder / "previous.raw"
        for name in ("now.raw", "previous.raw"):
            (folder / name).unlink()
        shutil.rmtree(folder / "fetched")
        os.rename(folder, KEPT / _NAME)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return KEPT / _NAME


def save_delta(path: Path, before: Path, after: Path) -> None:
    """Write a delta: a JSON line with the numbers of the changed blocks, then their content."""
    changed = list(_differ(before, after))
    with path.open("wb") as file, after.open("rb") as source:
        file.write(json.dumps(changed).encode() + b"\n")
        for block in changed:
            file.write(os.pread(source.fileno(), BLOCK, block * BLOCK))


def _differ(before: Path, after: Path) -> Iterator[int]:
    with before.open("rb") as old, after.open("rb") as new:
        at = 0
        while data := new.read(_STEP):
            was = old.read(_STEP)
            if data != was:
                for start in range(0, len(data), BLOCK):
                    if data[start : start + BLOCK] != was[start : start + BLOCK]:
                        yield (at + start) // BLOCK
            at += len(data)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[int], BinaryIO]]:
    with path.open("rb") as file:
        yield json.loads(file.readline()), file


def apply_delta(folder: Path, number: int, image: Path) -> Sequence[int]:
    """Apply the delta of point *number* (from 1) to *image*; return the changed blocks."""
    with _opened(folder / f"{number}.delta") as (changed, file), image.open("r+b") as target:
        for block in changed:
            target.seek(block * BLOCK)
            target.write(file.read(BLOCK))
    return changed


def points_of(folder: Path) -> int:
    """Return the number of points of the disk."""
    return 1 + len(list(folder.glob("*.delta")))


if __name__ == "__main__":
    print(make_real())
