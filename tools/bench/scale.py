"""Rows on growth with the size of a disk and with the number of points."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.fleet import make_fleet, vm_name
from tools.bench.footprint import catalog_use
from tools.bench.ingests import capture
from tools.bench.programs import Program, run
from tools.bench.row import OURS, Curve, Goal, Row, alternate
from tools.bench.servers import anonymous_memory, mounted, worker_memory
from tools.bench.take import DISK, VM, capturing

_MIB: Final = 1 << 20
_PIECE: Final = 4096
_MANY: Final = 16_384
"""Blocks to read before memory is measured: more than the caches can keep."""
_FORGOTTEN: Final = 900
"""Maximum number of points to forget."""
WARM: Final = "repository warm"

POINTS: Final = "against the number of points"
SIZE: Final = "against the size of the disk"


@dataclass(frozen=True, slots=True)
class ScaleCase:
    """A repository to measure, and the disk of its next point."""

    x: float
    """Position in a plot: points or bytes."""
    label: str
    repository: Path
    image: Path
    vm: str
    points: int
    stored: Sequence[int]
    """Blocks of the disk that hold data."""
    blocks: Sequence[int]
    """Blocks that an incremental may rewrite."""
    content: Content

    def take(self, program: Program, count: int, *options: str) -> float:
        """Rewrite *count* blocks and return the seconds of an incremental, start-up included."""
        changed = self.content.some_of(self.blocks, min(count, len(self.blocks)))
        with self.image.open("r+b") as file:
            for block in changed:
                file.seek(block * BLOCK)
                file.write(self.content.block("random"))
        return capture(
            program, self.repository, self.image, changed, ("--vm", self.vm, *options)
        ).seconds


@dataclass(frozen=True, slots=True)
class MountCosts:
    """Times in seconds and memory of a mount."""

    ready: float
    first_byte: float
    list_all: float
    """Seconds of `ls -lR` of the whole mount."""
    supervisor_bytes: int
    worker_bytes: int
    """Anonymous memory of the largest worker."""


def fleet_rows(bench: Bench) -> Iterator[Row]:
    """Measure repositories with increasing numbers of points and VMs."""
    cases = [_fleet(bench, points, vms) for points, vms in bench.sizes.fleets]
    yield from _mount_rows(bench, cases, POINTS)
    yield from _command_rows(bench, cases, POINTS, bench.sizes.change)
    yield from _forget_rows(bench, cases[-1])


def thin_rows(bench: Bench) -> Iterator[Row]:
    """Measure disks of increasing size with the same amount of data."""
    cases = [_thin(bench, f"thin{at}", size) for at, size in enumerate(bench.sizes.thin_disks)]
    yield _catalog_row(cases)
    yield from _mount_rows(bench, cases, SIZE)
    yield from _command_rows(bench, cases, SIZE, bench.sizes.change)


def long_rows(bench: Bench) -> Iterator[Row]:
    """Measure a repository with many points of the largest thin disk."""
    sizes = bench.sizes
    thin = bench.datasets.thin("long", sizes.thin_disks[-1], sizes.thickest_data)
    program, repository = Program(OURS), thin.image.with_name("repository")
    program.run(repository, "init")
    full = capture(program, repository, thin.image).seconds
    uses = {"after the full": catalog_use(repository)}
    content = Content("long")
    with capturing(repository, thin.image) as take:
        for _ in range(sizes.thin_points):
            take(thin.rewrite(content, _MIB // BLOCK))
    uses[OURS] = catalog_use(repository)
    points, size = sizes.thin_points + 1, sizes.thin_disks[-1]
    label = f"{points:,} points of {_size(size)}"
    yield Row(
        f"catalog per chunk, {label}",
        "bytes",
        False,
        "-",
        {OURS: [uses[OURS].bytes_per_chunk]},
        facts={
            "chunks": uses[OURS].chunks,
            "after the full": uses["after the full"].bytes_per_chunk,
            "chunks then": uses["after the full"].chunks,
            "seconds of the full": full,
        },
    )
    case = ScaleCase(
        size, label, repository, thin.image, VM, points, thin.blocks, thin.blocks, content
    )
    yield from _mount_rows(bench, [case], None)
    yield from _command_rows(bench, [case], None, sizes.change)
    yield from _forget_rows(bench, case)


def _fleet(bench: Bench, points: int, vms: int) -> ScaleCase:
    folder = bench.folder / f"fleet{points}"
    folder.mkdir()
    disk = make_fleet(folder, points, vms)
    image = folder / "disk.raw"
    disk.save(image)
    spare = range(bench.sizes.change // BLOCK * 2)
    return ScaleCase(
        points,
        f"{points:,} points",
        folder / "repository",
        image,
        vm_name(0),
        points,
        sorted(disk.blocks),
        [block for block in spare if block not in disk.blocks],
        Content("fleet deltas"),
    )


def _thin(bench: Bench, name: str, size: int) -> ScaleCase:
    thin = bench.datasets.thin(name, size, bench.sizes.thin_data)
    repository = thin.image.with_name("repository")
    Program(OURS).run(repository, "init")
    capture(Program(OURS), repository, thin.image)
    content = Content("thin deltas")
    return ScaleCase(
        size, _size(size), repository, thin.image, VM, 1, thin.blocks, thin.blocks, content
    )


def _size(size: int) -> str:
    return next(
        f"{size >> shift} {unit}iB"
        for shift, unit in ((40, "T"), (30, "G"), (20, "M"))
        if size >> shift
    )


class _Metric(NamedTuple):
    """Name, unit and cache state of a row."""

    name: str
    unit: str
    cache: str = WARM
    bound: float | None = None
    """Maximum value of the largest case."""


def _catalog_row(cases: Sequence[ScaleCase]) -> Row:
    samples = {case.label: [catalog_use(case.repository).bytes_per_chunk] for case in cases}
    return _row(_Metric("catalog per chunk", "bytes", "-"), cases, samples, SIZE)


def _row(
    metric: _Metric,
    cases: Sequence[ScaleCase],
    samples: Mapping[str, Sequence[float]],
    axis: str | None,
) -> Row:
    """Return a row about growth: the largest case, with the smaller ones as its contenders."""
    largest = cases[-1].label
    named = {OURS if label == largest else f"at {label}": samples[label] for label in samples}
    curve = None
    if axis is not None:
        at = {OURS if case.label == largest else f"at {case.label}": case.x for case in cases}
        curve = Curve("scale", f"{metric.name}|{axis}", at)
    ordered = {OURS: named.pop(OURS), **named}
    goals = [] if metric.bound is None else [Goal(metric.bound)]
    title = f"{metric.name}, {largest}"
    return Row(title, metric.unit, False, metric.cache, ordered, goals, curve=curve)


def _mount_rows(bench: Bench, cases: Sequence[ScaleCase], axis: str | None) -> Iterator[Row]:
    """Measure a mount from its start to a listing of all files."""
    costs: dict[str, list[MountCosts]] = {case.label: [] for case in cases}
    for turn in range(bench.sizes.few):
        for number in range(len(cases)):
            case = cases[(turn + number) % len(cases)]
            costs[case.label].append(_measure_mount(bench, case, is_whole=turn == 0))

    def row(metric: _Metric, value: Callable[[MountCosts], float], axis: str | None) -> Row:
        samples = {label: [value(mount) for mount in mounts] for label, mounts in costs.items()}
        return _row(metric, cases, samples, axis)

    ready = _Metric("mount, until ready", "s")
    yield row(ready, lambda mount: mount.ready, None if axis == SIZE else axis)
    first_byte = _Metric("first byte after ready", "ms", bound=100)
    yield row(first_byte, lambda mount: mount.first_byte * 1e3, axis)
    memory = _Metric("memory of a worker", "MiB", bound=150)
    yield row(memory, lambda mount: mount.worker_bytes / _MIB, axis)
    memory = _Metric("memory of the supervisor", "MiB")
    yield row(memory, lambda mount: mount.supervisor_bytes / _MIB, None)
    listing = {label: [mounts[0].list_all] for label, mounts in costs.items()}
    yield _row(_Metric("ls -lR of the mount", "s"), cases, listing, None)


def _measure_mount(bench: Bench, case: ScaleCase, *, is_whole: bool) -> MountCosts:
    """Mount a repository and read blocks; list all files too if *is_whole*."""
    at = bench.folder / "mount"
    started = time.perf_counter()
    with mounted(Program(OURS), case.repository, at, bench.workers) as process:
        ready = time.perf_counter()
        path = at / case.vm / "latest" / f"{DISK}.raw"
        fd = os.open(path, os.O_RDONLY)
        os.pread(fd, _PIECE, case.stored[0] * BLOCK)
        first = time.perf_counter()
        for block in case.stored[:_MANY]:
            os.pread(fd, _PIECE, block * BLOCK)
        os.close(fd)
        listed = time.perf_counter()
        if is_whole:
            subprocess.run(["ls", "-lR", at], stdout=subprocess.DEVNULL, check=True)
        return MountCosts(
            ready - started,
            first - ready,
            time.perf_counter() - listed,
            anonymous_memory(process),
            max(worker_memory(process)),
        )


def _command_rows(
    bench: Bench, cases: Sequence[ScaleCase], axis: str | None, change: int
) -> Iterator[Row]:
    """Measure commands, start-up included."""
    program, repeats = Program(OURS), bench.sizes.few

    def incremental(case: ScaleCase, *options: str) -> Callable[[], float]:
        return lambda: case.take(program, change // BLOCK, *options)

    def listing(case: ScaleCase) -> Callable[[], float]:
        return lambda: program.run(case.repository, "list", "--json").seconds

    samples = alternate({case.label: incremental(case, "--audit", "0") for case in cases}, repeats)
    name = f"incremental of {_size(change)}"
    yield _row(_Metric(name, "s", "source warm"), cases, samples, axis)
    samples = alternate({case.label: incremental(case) for case in cases}, repeats)
    yield _row(_Metric(f"{name} with audit", "s", "source warm"), cases, samples, None)
    samples = alternate({case.label: listing(case) for case in cases}, repeats)
    yield _row(_Metric("list --json", "s"), cases, samples, None)


def _forget_rows(bench: Bench, case: ScaleCase) -> Iterator[Row]:
    """Measure forget and prune of most points."""
    program, repository = Program(OURS), case.repository
    document = json.loads(program.run(repository, "list", "--json").output)
    count = min(case.points * 9 // 10, _FORGOTTEN)
    forgotten = [point["id"] for point in document["points"][:count]]
    forgetting = program.run(repository, "forget", *forgotten)
    name = f"of {len(forgotten)} points, {case.label}"
    yield Row(f"forget {name}", "s", False, WARM, {OURS: [forgetting.seconds]})
    pruning = program.run(repository, "prune", "--json")
    report = json.loads(pruning.output)
    facts = {"peak MiB": pruning.peak_bytes / _MIB}
    facts |= {key: value for key, value in report.items() if key.endswith(("bytes", "packs"))}
    yield Row(f"prune {name}", "s", False, WARM, {OURS: [pruning.seconds]}, facts=facts)
    run(["sync"])
