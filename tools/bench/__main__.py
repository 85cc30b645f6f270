"""Prepare test data, measure cbtfs and its peers, print a table: `python -m tools.bench`."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from cbtfs.errors import CbtfsError
from tools.bench import (
    depth,
    encrypted,
    guest_files,
    history,
    holes,
    in_place,
    ingests,
    proofs,
    reads,
    restores,
    running,
    scale,
    shapes,
    slices,
    transports,
    workloads,
)
from tools.bench.bench import Bench
from tools.bench.datasets import Datasets, DatasetUnavailable
from tools.bench.machine import describe
from tools.bench.plot import draw
from tools.bench.programs import raise_file_limit, require
from tools.bench.row import Row
from tools.bench.sizes import FULL, QUICK
from tools.bench.table import document, heading, page, render

GROUPS: Final[Mapping[str, Callable[[Bench], Iterator[Row]]]] = {
    "read-chain": reads.chain_rows,
    "read-shapes": shapes.shape_rows,
    "read-cold": reads.cold_rows,
    "read-raw": reads.raw_rows,
    "read-second": reads.second_rows,
    "read-slices": slices.slice_rows,
    "read-memory": reads.memory_rows,
    "depth": depth.depth_rows,
    "depth-curves": depth.curve_rows,
    "ways-copy": workloads.copy_rows,
    "ways-sparse": holes.copy_rows,
    "ways-files": workloads.tree_rows,
    "ways-debian": workloads.real_rows,
    "encrypted-reads": encrypted.read_rows,
    "encrypted-ingest": encrypted.ingest_rows,
    "ingest-full": ingests.full_rows,
    "ingest-incremental": ingests.incremental_rows,
    "ingest-compare": ingests.compare_rows,
    "small": ingests.small_rows,
    "restore": restores.restore_rows,
    "in-place": in_place.rows,
    "running": running.rows,
    "python-api": restores.api_rows,
    "blame": history.blame_rows,
    "prove": proofs.proof_rows,
    "files": guest_files.file_rows,
    "catalog": ingests.catalog_rows,
    "scale-fleet": scale.fleet_rows,
    "scale-thin": scale.thin_rows,
    "scale-long": scale.long_rows,
    "transports-read": transports.read_rows,
    "transports-star": transports.star_rows,
    "transports-trips": transports.trip_rows,
}
"""Groups of rows by the name that --rows takes; the rows of a group share their set-up."""
RUN: Final = "run.json"
TABLE: Final = "table.md"
REMAINING: Final = "remaining rows"


class Interrupted(Exception):
    """Raised by SIGTERM: the bench unmounts its mounts and keeps the rows that are measured."""


def measure(bench: Bench, patterns: Sequence[str], left_out: dict[str, str]) -> Iterator[Row]:
    """Yield the rows of every group whose name matches a pattern; print progress to stderr.

    Groups that cannot be measured on this machine are added to *left_out*, with the reason.
    """
    for name, group in GROUPS.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            started = time.monotonic()
            try:
                yield from group(bench)
            except DatasetUnavailable as exc:
                left_out[name] = str(exc)
                print(f"{name}: left out: {exc}", file=sys.stderr)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def run_all(bench: Bench, patterns: Sequence[str], out: TextIO) -> dict[str, Any]:
    """Measure and return the document of the run; write its table to *out* line by line."""
    raise_file_limit()
    machine = describe(bench.folder)
    print(heading(machine), file=out, flush=True)
    rows, left_out = [], dict[str, str]()
    started = time.monotonic()
    try:
        for row in measure(bench, patterns, left_out):
            print(render(row), file=out, flush=True)
            rows.append(row)
    except Interrupted:
        left_out[REMAINING] = "the run was interrupted"
    machine["minutes"] = f"{(time.monotonic() - started) / 60:.0f}"
    return document(rows, machine, bench.sizes.name, left_out)


def save(run: Mapping[str, Any], path: Path) -> None:
    """Write the document of a run, with all samples, as JSON."""
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def publish(run: Mapping[str, Any], folder: Path) -> None:
    """Write samples, table and plots to *folder*; replace those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    save(run, folder / RUN)
    (folder / TABLE).write_text(page(run))
    draw(run, folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="use the short form: under three minutes"
    )
    parser.add_argument(
        "--rows",
        metavar="PATTERN",
        action="append",
        help=f"measure matching groups only: {', '.join(GROUPS)}",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples to FILE")
    parser.add_argument(
        "--into", metavar="DIR", type=Path, help="write samples, table and plots to DIR"
    )
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="create the data in DIR and keep it"
    )
    parser.add_argument(
        "--before", metavar="CHECKOUT", type=Path, help="also measure the cbtfs of another checkout"
    )
    return parser.parse_args()


def end(*_: object) -> NoReturn:
    """Handle the first SIGTERM; ignore later ones."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted


def main() -> int:
    """Run the bench and return the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, end)
    sizes = QUICK if arguments.quick else FULL
    try:
        require()
        folder = arguments.keep or Path(tempfile.mkdtemp(prefix="cbtfs-bench-", dir="/var/tmp"))
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.absolute()
        bench = Bench(folder, sizes, Datasets(folder, sizes), arguments.before)
        for program in bench.programs:
            program.compile()
        try:
            run = run_all(bench, arguments.rows or ["*"], sys.stdout)
        finally:
            if arguments.keep is None:
                shutil.rmtree(folder)
        if arguments.json is not None:
            save(run, arguments.json)
        if arguments.into is not None:
            publish(run, arguments.into)
    except CbtfsError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
