"""Rows of what grows, and what must not: with the size of a disk, with the number of points."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.fleet import make_fleet, vm_name
from tools.bench.footprint import catalog_use
from tools.bench.ingests import capture
from tools.bench.programs import Program, run
from tools.bench.row import OURS, Curve, Goal, Row, in_turns
from tools.bench.servers import anonymous_memory, mounted, worker_memory
from tools.bench.take import DISK, VM, capturing

_MIB: Final = 1 << 20
_PIECE: Final = 4096
_MANY: Final = 16_384
"""Blocks that are read before memory is looked at: more than the caches hold."""
_FORGOTTEN: Final = 900
"""How many points are forgotten, where there are so many."""
WARM: Final = "repository warm"

POINTS: Final = "against the number of points"
SIZE: Final = "against the size of the disk"


@dataclass(frozen=True, slots=True)
class Subject:
    """A repository to be measured, and the disk that its next point is taken of."""

    x: float
    """Points or bytes."""
    label: str
    repository: Path
    image: Path
    vm: str
    points: int
    stored: Sequence[int]
    """Blocks of the disk that hold data."""
    blocks: Sequence[int]
    """Those that may be rewritten."""
    content: Content

    def take(self, program: Program, count: int, *options: str) -> float:
        """Seconds of an incremental of so many blocks, from start to end."""
        changed = self.content.some_of(self.blocks, min(count, len(self.blocks)))
        with self.image.open("r+b") as file:
            for block in changed:
                file.seek(block * BLOCK)
                file.write(self.content.block("random"))
        return capture(
            program, self.repository, self.image, changed, vm=self.vm, options=options
        ).seconds


@dataclass(frozen=True, slots=True)
class Mounted:
    """What a mount took, from its start on."""

    ready: float
    first_byte: float
    list_all: float
    """`ls -lR` of everything."""
    parent_bytes: int
    worker_bytes: int
    """Of the largest worker."""


def fleet_rows(bench: Bench) -> Iterator[Row]:
    """Repositories with ever more points of ever more VMs."""
    subjects = [_fleet(bench, points, vms) for points, vms in bench.sizes.fleets]
    yield from _mount_rows(bench, subjects, POINTS)
    yield from _command_rows(bench, subjects, POINTS, bench.sizes.change)
    yield from _forget_rows(bench, subjects[-1])


def thin_rows(bench: Bench) -> Iterator[Row]:
    """The same data on ever larger disks."""
    subjects = [_thin(bench, f"thin{at}", size) for at, size in enumerate(bench.sizes.thin_disks)]
    yield _catalog_row(subjects)
    yield from _mount_rows(bench, subjects, SIZE)
    yield from _command_rows(bench, subjects, SIZE, bench.sizes.change)


def long_rows(bench: Bench) -> Iterator[Row]:
    """Many points of the largest thin disk."""
    sizes = bench.sizes
    thin = bench.stock.thin("long", sizes.thin_disks[-1], sizes.thickest_data)
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
        f"catalog for each chunk, {label}",
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
    subject = Subject(
        size, label, repository, thin.image, VM, points, thin.blocks, thin.blocks, content
    )
    yield from _mount_rows(bench, [subject], None)
    yield from _command_rows(bench, [subject], None, sizes.change)
    yield from _forget_rows(bench, subject)


def _fleet(bench: Bench, points: int, vms: int) -> Subject:
    folder = bench.folder / f"fleet{points}"
    folder.mkdir()
    disk = make_fleet(folder, points, vms)
    image = folder / "disk.raw"
    disk.save(image)
    spare = range(bench.sizes.change // BLOCK * 2)
    return Subject(
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


def _thin(bench: Bench, name: str, size: int) -> Subject:
    thin = bench.stock.thin(name, size, bench.sizes.thin_data)
    repository = thin.image.with_name("repository")
    Program(OURS).run(repository, "init")
    capture(Program(OURS), repository, thin.image)
    content = Content("thin deltas")
    return Subject(
        size, _size(size), repository, thin.image, VM, 1, thin.blocks, thin.blocks, content
    )


def _size(size: int) -> str:
    return next(
        f"{size >> shift} {unit}iB"
        for shift, unit in ((40, "T"), (30, "G"), (20, "M"))
        if size >> shift
    )


def _catalog_row(subjects: Sequence[Subject]) -> Row:
    samples = {each.label: [catalog_use(each.repository).bytes_per_chunk] for each in subjects}
    return _row("catalog for each chunk", "bytes", "-", subjects, samples, SIZE)


def _row(
    name: str,
    unit: str,
    cache: str,
    subjects: Sequence[Subject],
    samples: Mapping[str, Sequence[float]],
    axis: str | None,
    bound: float | None = None,
) -> Row:
    """A row about growth: the largest is ours, the smaller ones are what it is compared with."""
    largest = subjects[-1].label
    named = {OURS if label == largest else f"at {label}": samples[label] for label in samples}
    curve = None
    if axis is not None:
        at = {OURS if s.label == largest else f"at {s.label}": s.x for s in subjects}
        curve = Curve("scale", f"{name}|{axis}", at)
    ordered = {OURS: named.pop(OURS), **named}
    goals = [] if bound is None else [Goal(bound)]
    return Row(f"{name}, {largest}", unit, False, cache, ordered, goals, curve=curve)


def _mount_rows(bench: Bench, subjects: Sequence[Subject], axis: str | None) -> Iterator[Row]:
    """From the start of a mount to a listing of all that is in it."""
    found: dict[str, list[Mounted]] = {each.label: [] for each in subjects}
    for turn in range(bench.sizes.few):
        for at in range(len(subjects)):
            each = subjects[(turn + at) % len(subjects)]
            found[each.label].append(_look(bench, each, is_whole=turn == 0))

    def row(
        name: str,
        unit: str,
        take: Callable[[Mounted], float],
        bound: float | None = None,
        *,
        is_drawn: bool = True,
    ) -> Row:
        samples = {label: [take(each) for each in mine] for label, mine in found.items()}
        return _row(name, unit, WARM, subjects, samples, axis if is_drawn else None, bound)

    yield row("mount, until ready", "s", lambda each: each.ready, is_drawn=axis != SIZE)
    yield row("first byte after ready", "ms", lambda each: each.first_byte * 1e3, 100)
    yield row("memory of a worker", "MiB", lambda each: each.worker_bytes / _MIB, 150)
    yield row("memory of its parent", "MiB", lambda each: each.parent_bytes / _MIB, is_drawn=False)
    whole = {label: [mine[0].list_all] for label, mine in found.items()}
    yield _row("ls -lR of the mount", "s", WARM, subjects, whole, None)


def _look(bench: Bench, subject: Subject, *, is_whole: bool) -> Mounted:
    at = bench.folder / "mount"
    started = time.perf_counter()
    with mounted(Program(OURS), subject.repository, at, bench.workers) as process:
        ready = time.perf_counter()
        path = at / subject.vm / "latest" / f"{DISK}.raw"
        fd = os.open(path, os.O_RDONLY)
        os.pread(fd, _PIECE, subject.stored[0] * BLOCK)
        first = time.perf_counter()
        for block in subject.stored[:_MANY]:
            os.pread(fd, _PIECE, block * BLOCK)
        os.close(fd)
        listed = time.perf_counter()
        if is_whole:
            subprocess.run(["ls", "-lR", at], stdout=subprocess.DEVNULL, check=True)
        return Mounted(
            ready - started,
            first - ready,
            time.perf_counter() - listed,
            anonymous_memory(process),
            max(worker_memory(process)),
        )


def _command_rows(
    bench: Bench, subjects: Sequence[Subject], axis: str | None, change: int
) -> Iterator[Row]:
    """Commands from start to end."""
    program, repeats = Program(OURS), bench.sizes.few

    def incremental(subject: Subject, *options: str) -> Callable[[], float]:
        return lambda: subject.take(program, change // BLOCK, *options)

    def listing(subject: Subject) -> Callable[[], float]:
        return lambda: program.run(subject.repository, "list", "--json").seconds

    samples = in_turns({s.label: incremental(s, "--audit", "0") for s in subjects}, repeats)
    name = f"incremental of {_size(change)}"
    yield _row(name, "s", "source warm", subjects, samples, axis)
    samples = in_turns({each.label: incremental(each) for each in subjects}, repeats)
    yield _row(f"{name} and its audit", "s", "source warm", subjects, samples, None)
    samples = in_turns({each.label: listing(each) for each in subjects}, repeats)
    yield _row("list --json", "s", WARM, subjects, samples, None)


def _forget_rows(bench: Bench, subject: Subject) -> Iterator[Row]:
    """Most points go, and their space."""
    program, repository = Program(OURS), subject.repository
    document = json.loads(program.run(repository, "list", "--json").output)
    count = min(subject.points * 9 // 10, _FORGOTTEN)
    gone = [point["id"] for point in document["points"][:count]]
    forgetting = program.run(repository, "forget", *gone)
    name = f"of {len(gone)} points, {subject.label}"
    yield Row(f"forget {name}", "s", False, WARM, {OURS: [forgetting.seconds]})
    pruning = program.run(repository, "prune", "--json")
    told = json.loads(pruning.output)
    facts = {"peak MiB": pruning.peak_bytes / _MIB}
    facts |= {key: value for key, value in told.items() if key.endswith(("bytes", "packs"))}
    yield Row(f"prune {name}", "s", False, WARM, {OURS: [pruning.seconds]}, facts=facts)
    run(["sync"])
