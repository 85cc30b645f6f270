"""Rows on proofs: the checks of file systems against a restore and a check of the file."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.programs import Program, run
from tools.bench.row import Goal, Row, alternate
from tools.bench.take import DISK, VM, capturing, new_repository

RESTORE: Final = "restore to a file, e2fsck"
READING: Final = "the same, and all data read"
_FILE_BYTES: Final = 4 << 20
_SHARE: Final = 0.9
"""Part of the disk that is files."""


def proof_rows(bench: Bench) -> Iterator[Row]:
    """Measure `cbtfs prove --level 3` of a disk that is an ext4 full of data.

    The data was read by `check --read-data` before, so level 1 needs no second read of it.
    """
    size = bench.sizes.large_data
    repository = new_repository(bench.folder / "proofs")
    image = bench.folder / "proofs.raw"
    _make_image(image, size)
    with capturing(repository, image) as take:
        take(None)
    image.unlink()
    bench.programs[0].run(repository, "check", "--read-data")

    def prove(program: Program, *options: str) -> Callable[[], float]:
        command = ("prove", f"{VM}@latest", "--level=3", "-q", *options)
        return lambda: program.run(repository, *command).seconds

    def restore() -> float:
        with bench.scratch() as scratch:
            target = scratch / "disk.raw"
            program = bench.programs[0]
            restored = program.run(repository, "restore", f"{VM}@latest", DISK, target, "-q")
            return restored.seconds + run(["e2fsck", "-fn", target]).seconds

    contenders = {program.name: prove(program) for program in bench.programs}
    contenders[RESTORE] = restore
    contenders[READING] = prove(bench.programs[0], "--checked-within=0")
    samples = alternate(contenders, bench.sizes.few)
    shutil.rmtree(repository)
    name = f"prove --level 3, {size >> 20} MiB disk"
    yield Row(name, "s", False, "repository warm", samples, [Goal(3, RESTORE)])


def _make_image(path: Path, size: int) -> None:
    """Make an ext4 with files of half text and half random bytes."""
    content = Content("proofs")
    blocks = [content.block(kind) for kind in ("text", "random") for _ in range(64)]
    with path.open("wb") as file:
        file.truncate(size)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        for number in range(int(size * _SHARE) // _FILE_BYTES):
            with Path(name, f"{number}").open("wb") as file:
                for at in range(_FILE_BYTES // BLOCK):
                    stamp = b"%16d" % (number * BLOCK + at)
                    file.write(stamp + blocks[(number + at) % len(blocks)][16:])
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", name, path], check=True)
