"""Rows on restoring a disk to a raw file, and on reading it by the Python API."""

import sys
from collections.abc import Callable, Iterator
from typing import Final

from tools.bench.bench import Bench
from tools.bench.programs import Program, run
from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.take import DISK, VM

QEMU_IMG: Final = "qemu-img convert, fsync"
RESTORE: Final = "cbtfs restore, durable"
STREAM: Final = "cbtfs restore -, to /dev/null"
_READ: Final = """
import sys, cbtfs
piece = bytearray(int(sys.argv[4]))
with cbtfs.open_repository(sys.argv[1]) as repository:
    with repository.open(sys.argv[2], sys.argv[3]) as disk:
        count = 0
        while read := disk.readinto(piece):
            count += read
        assert count == disk.size
"""
_PIECES: Final = (64 << 10, 4 << 20)
"""Bytes of a read: shutil.copyfileobj() reads 64 KiB at once."""


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
    goals = [Goal(1.2, QEMU_IMG)]
    yield Row("restore, durable", "MB/s", True, "repository warm", samples, goals)


def api_rows(bench: Bench) -> Iterator[Row]:
    """Measure sequential reads by the Python API against restores; starts of programs included."""
    chain = bench.datasets.mixed
    size = chain.image.stat().st_size
    ours = Program(OURS)
    point = f"{VM}@latest"

    def api(piece: int) -> Callable[[], float]:
        arguments = [str(chain.repository), point, DISK, str(piece)]
        command = [sys.executable, "-c", _READ, *arguments]
        return lambda: size / run(command, ours.environment).seconds / 1e6

    def restore() -> float:
        with bench.scratch() as scratch:
            target = scratch / "disk.raw"
            return size / ours.run(chain.repository, "restore", point, DISK, target).seconds / 1e6

    def stream() -> float:
        command = ours.command(chain.repository, "restore", point, DISK, "-")
        script = 'exec "$0" "$@" > /dev/null'
        return size / run(["sh", "-c", script, *command], ours.environment).seconds / 1e6

    for piece in _PIECES:
        contenders = {OURS: api(piece), RESTORE: restore, STREAM: stream}
        samples = alternate(contenders, bench.sizes.repeats)
        name = f"Python API, sequential reads of {piece >> 10} KiB"
        yield Row(name, "MB/s", True, "repository warm", samples, [Goal(0.8, RESTORE)])
