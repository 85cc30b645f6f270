"""Rows on restoring a disk to a raw file."""

from collections.abc import Callable, Iterator
from typing import Final

from tools.bench.bench import Bench
from tools.bench.programs import Program, run
from tools.bench.row import Goal, Row, alternate
from tools.bench.take import DISK, VM

QEMU_IMG: Final = "qemu-img convert, fsync"


def restore_rows(bench: Bench) -> Iterator[Row]:
    """Measure a restore of the newest point to a sparse file, against a flat qcow2 image."""
    chain = bench.datasets.mixed
    size = chain.image.stat().st_size
    flat = bench.folder / "flat.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", chain.image, flat])

    def ours(program: Program) -> Callable[[], float]:
        def sample() -> float:
            with bench.scratch() as scratch:
                target = scratch / "disk.raw"
                result = program.run(chain.repository, "restore", f"{VM}@latest", DISK, target)
            return size / result.seconds / 1e6

        return sample

    def theirs() -> float:
        script = 'qemu-img convert -f qcow2 -O raw "$0" "$1" && sync "$1"'
        with bench.scratch() as scratch:
            return size / run(["sh", "-c", script, flat, scratch / "disk.raw"]).seconds / 1e6

    contenders = {program.name: ours(program) for program in bench.programs}
    contenders[QEMU_IMG] = theirs
    samples = alternate(contenders, bench.sizes.repeats)
    flat.unlink()
    goals = [Goal(0.8, QEMU_IMG)]
    yield Row("restore, durable", "MB/s", True, "repository warm", samples, goals)
