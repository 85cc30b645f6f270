"""Rows on reads of slices: partitions of a disk as files."""

from collections.abc import Iterator
from itertools import count
from typing import Final

from tools.bench.bench import Bench
from tools.bench.programs import run
from tools.bench.reads import DIRECT, SHAPES, RandomShape, point_file, random_reads
from tools.bench.row import OURS, Goal, Measure, Row, alternate

SAME_BYTES: Final = "the disk, same offsets"


def slice_rows(bench: Bench) -> Iterator[Row]:
    """Measure direct random reads of a partition, against the same bytes of its disk."""
    partitioned = bench.datasets.partitioned
    area = partitioned.partition
    with bench.mounts(partitioned.repository) as mounts:
        disk = point_file(mounts[OURS], 1)
        part = disk.parent / "slices" / f"{disk.stem}.p1.raw"
        run(["cmp", f"--ignore-initial={area.start}:0", f"--bytes={area.length}", disk, part])

        def contenders(shape: RandomShape) -> dict[str, Measure]:
            seeds = {OURS: count(1), SAME_BYTES: count(1)}
            return {
                OURS: lambda: random_reads(bench, part, shape, next(seeds[OURS])),
                SAME_BYTES: lambda: random_reads(bench, disk, shape, next(seeds[SAME_BYTES]), area),
            }

        for shape in SHAPES:
            samples = alternate(contenders(shape), bench.sizes.repeats)
            goals = [Goal(0.98, SAME_BYTES)]
            yield Row(f"{shape.title}, a partition", "reads/s", True, DIRECT, samples, goals)
