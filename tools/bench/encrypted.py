"""Rows on encrypted repositories, against the same work without encryption and by peers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tools.bench.bench import Bench
from tools.bench.datasets import Chain, RawChain
from tools.bench.ingests import RESTIC, capture, restic_backup, restic_init
from tools.bench.programs import Program, run
from tools.bench.reads import SHAPES, check_equal, point_file, random_row, sequential_row
from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.servers import mounted

PLAIN: Final = "cbtfs, not encrypted"
BORG: Final = "borg zstd,1, encrypted"
_SMALL: Final = 4096
"""Size of the random reads that have a goal."""
_BORG: Final = {"BORG_PASSPHRASE": "bench"}


def read_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of the newest point of the mixed disk and of the disk of random bytes."""
    depth = bench.sizes.deltas + 1
    datasets = bench.datasets
    for where, chain in ((f"depth {depth}", datasets.mixed), ("stored raw", datasets.raw)):
        with _mounts(bench, chain) as mounts:
            files = {name: point_file(mount, depth) for name, mount in mounts.items()}
            check_equal(files, chain.image)
            name = f"sequential read, encrypted, {where}"
            yield sequential_row(bench, name, files, Goal(0.85, PLAIN))
            for shape in SHAPES:
                name = f"{shape.title}, encrypted, {where}"
                has_goal = shape.block == _SMALL
                yield random_row(bench, name, files, shape, Goal(0.7, PLAIN) if has_goal else None)


@contextmanager
def _mounts(bench: Bench, chain: Chain | RawChain) -> Iterator[dict[str, Path]]:
    """Mount a repository and an encrypted copy of it; yield mount points by contender."""
    with ExitStack() as stack:
        scratch = stack.enter_context(bench.scratch())
        copy, key = scratch / "repository", scratch / "key"
        ours, plain = Program(OURS, key=key), Program(PLAIN)
        init_encrypted(ours, copy)
        ours.run(chain.repository, "copy", "--to", copy)
        bench.settle()
        mounts = {}
        for number, (program, path) in enumerate(((ours, copy), (plain, chain.repository))):
            mounts[program.name] = bench.folder / f"encrypted-{number}"
            stack.enter_context(mounted(program, path, mounts[program.name], bench.workers))
        yield mounts


def init_encrypted(program: Program, repository: Path) -> None:
    """Create an encrypted repository, and the key file of *program*."""
    assert program.key is not None
    words = ["init", "--encrypt", "--no-recovery", "--block-size", "65536", "--level", "1"]
    program.run(repository, "--key-file", program.key, *words)


def ingest_rows(bench: Bench) -> Iterator[Row]:
    """Measure the first point of the mixed disk until it is durable."""
    image = bench.datasets.mixed.image
    size = image.stat().st_size

    def measure(work: Callable[[Path], float]) -> Callable[[], float]:
        def sample() -> float:
            with bench.scratch() as scratch:
                return size / work(scratch) / 1e6

        return sample

    def ours(scratch: Path) -> float:
        program = Program(OURS, key=scratch / "key")
        init_encrypted(program, scratch / "repository")
        return capture(program, scratch / "repository", image).seconds

    def plain(scratch: Path) -> float:
        program = Program(PLAIN)
        program.run(scratch / "repository", "init")
        return capture(program, scratch / "repository", image).seconds

    def restic(scratch: Path) -> float:
        restic_init(scratch)
        return restic_backup(scratch, image).seconds

    contenders = {OURS: ours, PLAIN: plain, RESTIC: restic, BORG: lambda path: _borg(path, image)}
    samples = alternate({n: measure(w) for n, w in contenders.items()}, bench.sizes.repeats)
    goals = [Goal(0.85, PLAIN), Goal(3, RESTIC), Goal(2, BORG)]
    yield Row("full ingest, encrypted, durable", "MB/s", True, "source warm", samples, goals)


def _borg(scratch: Path, image: Path) -> float:
    environment = {**_BORG, "BORG_BASE_DIR": str(scratch / "base")}
    run(["borg", "init", "--encryption=repokey", scratch / "borg"], environment)
    archive = f"{scratch / 'borg'}::first"
    command: list[str | Path] = ["borg", "create", "--compression=zstd,1", archive, image]
    return run(command, environment).seconds
