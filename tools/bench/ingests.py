"""Rows on taking restore points."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from cbtfs.store.digest import chunk_digest
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.datasets import write_delta
from tools.bench.programs import Program, ProgramRun, run
from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.take import DISK, VM

RESTIC: Final = "restic"
BORG: Final = "borg zstd,1"
ZSTD: Final = "zstd -1 -T2, fsync"
ZSTD_ALL: Final = "zstd -T0, fsync"
DIGEST: Final = "BLAKE3 alone, two threads"
_SOURCE_WARM: Final = "source warm"
_MIB: Final = 1 << 20
_STEP: Final = 4 << 20
_PARTS: Final = 50
_NOISE_SECONDS: Final = 1e-3
"""Lower bound of a difference of two times, for very small disks."""

Words = list[str | Path]

_BORG: Final = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
_RESTIC: Final = {"RESTIC_PASSWORD": "bench"}


def capture(
    program: Program,
    repository: Path,
    image: Path,
    changed: Sequence[int] | None = None,
    options: Sequence[str] = ("--vm", VM),
) -> ProgramRun:
    """Run `cbtfs ingest image`; the output of the run is the document of --json.

    *options* name the VM and may have further options.
    """
    words: Words = [*options, "--disk", DISK, "--json"]
    if changed is not None:
        path = repository.with_suffix(".json")
        path.write_text(json.dumps([{"start": b * BLOCK, "length": BLOCK} for b in changed]))
        words += ["--changed", path]
    return program.run(repository, "ingest", "image", *words, image)


def full_rows(bench: Bench) -> Iterator[Row]:
    """Measure the first point of the mixed disk until it is durable, and the peak memory."""
    image = bench.datasets.mixed.image
    size = image.stat().st_size
    peaks: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[Path], ProgramRun]) -> Callable[[], float]:
        def sample() -> float:
            with bench.scratch() as scratch:
                result = work(scratch)
            peaks.setdefault(name, []).append(result.peak_bytes / _MIB)
            return size / result.seconds / 1e6

        return sample

    contenders = {
        program.name: measure(program.name, _ours(program, image)) for program in bench.programs
    }
    contenders[BORG] = measure(BORG, lambda scratch: _borg(scratch, image))
    contenders[RESTIC] = measure(RESTIC, lambda scratch: _restic(scratch, image))
    for name, options in ((ZSTD, "-1 -T2"), (ZSTD_ALL, "-T0")):
        contenders[name] = measure(name, _zstd(image, options))
    with image.open("rb", buffering=0) as file:
        while file.read(_STEP):
            pass  # fill the page cache
    samples = alternate(contenders, bench.sizes.repeats)
    goals = [Goal(1.5, BORG), Goal(2.5, RESTIC), Goal(0.75, ZSTD)]
    yield Row("full ingest, durable", "MB/s", True, _SOURCE_WARM, samples, goals)
    name = "peak memory of a full ingest"
    yield Row(name, "MiB", False, _SOURCE_WARM, peaks, [Goal(256)])


def _ours(program: Program, image: Path) -> Callable[[Path], ProgramRun]:
    def work(scratch: Path) -> ProgramRun:
        repository = scratch / "repository"
        program.run(repository, "init")
        return capture(program, repository, image)

    return work


def _borg(scratch: Path, image: Path) -> ProgramRun:
    environment = {**_BORG, "BORG_BASE_DIR": str(scratch / "base")}
    run(["borg", "init", "--encryption=none", scratch / "borg"], environment)
    archive = f"{scratch / 'borg'}::first"
    return run(["borg", "create", "--compression=zstd,1", archive, image], environment)


def _restic(scratch: Path, image: Path) -> ProgramRun:
    restic_init(scratch)
    return restic_backup(scratch, image)


def restic_init(folder: Path) -> None:
    run(["restic", "init", "--quiet", "--repo", folder / "restic"], _RESTIC)


def restic_backup(folder: Path, image: Path) -> ProgramRun:
    cache: Words = ["--cache-dir", folder / "cache"]
    command: Words = ["restic", "backup", "--quiet", "--repo", folder / "restic", *cache, image]
    return run(command, _RESTIC)


def _zstd(image: Path, options: str) -> Callable[[Path], ProgramRun]:
    return lambda scratch: run(
        ["sh", "-c", f'zstd -q {options} -o "$1" "$0" && sync "$1"', image, scratch / "disk.zst"]
    )


def incremental_rows(bench: Bench) -> Iterator[Row]:
    """Measure an incremental of 2 % of the large disk by change list, against a full rescan."""
    image, content = bench.datasets.large.image, Content("large deltas")
    repeats = bench.sizes.few
    seconds: dict[str, list[float]] = {}
    changed_bytes = read_bytes = 0
    with bench.scratch() as scratch:
        for program in bench.programs:
            program.run(scratch / program.name, "init")
            capture(program, scratch / program.name, image)
        restic_init(scratch)
        restic_backup(scratch, image)
        for _ in range(repeats):
            changed = write_delta(image, content, _PARTS)
            for program in bench.programs:
                result = capture(program, scratch / program.name, image, changed)
                seconds.setdefault(program.name, []).append(result.seconds)
                if program.name == OURS:
                    changed_bytes += len(changed) * BLOCK
                    read_bytes += json.loads(result.output)["disks"][0]["read_bytes"]
            seconds.setdefault(RESTIC, []).append(restic_backup(scratch, image).seconds)
    size = f"{bench.sizes.large_disk >> 30} GiB" if bench.sizes.large_disk >> 30 else "small"
    yield Row(
        f"incremental, 2 % of a {size} disk",
        "s",
        False,
        _SOURCE_WARM,
        seconds,
        [Goal(20, RESTIC)],
        facts={"bytes changed": changed_bytes, "bytes read": read_bytes},
    )


def compare_rows(bench: Bench) -> Iterator[Row]:
    """Measure a point of an unchanged disk without a change list: all bytes are hashed."""
    chain = bench.datasets.raw
    size = chain.image.stat().st_size
    with bench.scratch() as scratch:
        small = _take_small(bench, scratch)

        def whole(program: Program) -> float:
            return capture(program, chain.repository, chain.image).seconds

        def beyond(program: Program) -> float:
            start = capture(program, scratch / program.name, small).seconds
            more = max(whole(program) - start, _NOISE_SECONDS)
            return (size - small.stat().st_size) / more / 1e6

        for name, measure in (
            (
                "scan with comparison by digest, unchanged",
                lambda program: size / whole(program) / 1e6,
            ),
            ("the same beyond a scan of 4 MiB", beyond),
        ):
            contenders = {program.name: partial(measure, program) for program in bench.programs}
            contenders[DIGEST] = partial(_hash, chain.image)
            samples = alternate(contenders, bench.sizes.repeats)
            yield Row(name, "MB/s", True, _SOURCE_WARM, samples, [Goal(0.8, DIGEST)])


def _hash(image: Path) -> float:
    size = image.stat().st_size

    def hash_part(start: int) -> None:
        with image.open("rb", buffering=0) as file:
            file.seek(start)
            data = memoryview(file.read(_STEP))
        for at in range(0, len(data), BLOCK):
            chunk_digest(data[at : at + BLOCK])

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(hash_part, range(0, size, _STEP)))
    return size / (time.perf_counter() - started) / 1e6


def _take_small(bench: Bench, scratch: Path) -> Path:
    """Take a point of a 4 MiB disk with each version of cbtfs; return the image."""
    image = scratch / "disk.raw"
    image.write_bytes(Content("small").block("text") * 64)
    for program in bench.programs:
        program.run(scratch / program.name, "init")
        capture(program, scratch / program.name, image)
    return image


def small_rows(bench: Bench) -> Iterator[Row]:
    """Measure commands with almost no work, in a small repository: the cost of start-up."""
    with bench.scratch() as scratch:
        image = _take_small(bench, scratch)
        restic_init(scratch)
        restic_backup(scratch, image)

        def listing(program: Program) -> Callable[[], float]:
            return lambda: program.run(scratch / program.name, "list", "--json").seconds

        def empty(program: Program) -> Callable[[], float]:
            def sample() -> float:
                seconds = capture(program, scratch / program.name, image, []).seconds
                return seconds - listing(program)()

            return sample

        repeats = bench.sizes.repeats * 2
        contenders: dict[str, Any] = {program.name: listing(program) for program in bench.programs}
        contenders["restic snapshots"] = lambda: _restic_snapshots(scratch)
        samples = alternate(contenders, repeats)
        yield Row("list, from start to end", "s", False, "warm", samples, [Goal(0.25)])
        samples = alternate({program.name: empty(program) for program in bench.programs}, repeats)
        yield Row("empty incremental, beyond list", "s", False, "warm", samples, [Goal(0.1)])


def _restic_snapshots(folder: Path) -> float:
    cache: Words = ["--cache-dir", folder / "cache"]
    command: Words = ["restic", "snapshots", "--json", "--repo", folder / "restic", *cache]
    return run(command, _RESTIC).seconds


def catalog_rows(bench: Bench) -> Iterator[Row]:
    """Measure the bytes of used catalog pages per chunk."""
    raw = bench.datasets.raw
    for name, use, bound in (
        ("a full", raw.after_full, 130),
        (f"{bench.sizes.deltas} x 1 %", raw.after_deltas, 150),
    ):
        samples = {OURS: [use.bytes_per_chunk]}
        facts = {"chunks": use.chunks}
        title = f"catalog per chunk, after {name}"
        yield Row(title, "bytes", False, "-", samples, [Goal(bound)], facts=facts)
