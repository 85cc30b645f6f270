"""`python -m tools.bench`: prepare data, measure, print a table."""

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
from tools.bench import depth, ingests, reads, restores, scale, shapes, ways
from tools.bench.bench import Bench
from tools.bench.machine import describe
from tools.bench.plot import draw
from tools.bench.programs import raise_file_limit, require
from tools.bench.row import Row
from tools.bench.sizes import FULL, QUICK
from tools.bench.stock import LeftOut, Stock
from tools.bench.table import document, heading, page, render

GROUPS: Final[Mapping[str, Callable[[Bench], Iterator[Row]]]] = {
    "read-chain": reads.chain_rows,
    "read-shapes": shapes.shape_rows,
    "read-cold": reads.cold_rows,
    "read-raw": reads.raw_rows,
    "read-second": reads.second_rows,
    "read-memory": reads.memory_rows,
    "depth": depth.depth_rows,
    "depth-curves": depth.curve_rows,
    "ways-copy": ways.copy_rows,
    "ways-files": ways.tree_rows,
    "ways-debian": ways.real_rows,
    "ingest-full": ingests.full_rows,
    "ingest-incremental": ingests.incremental_rows,
    "ingest-compare": ingests.compare_rows,
    "small": ingests.small_rows,
    "restore": restores.restore_rows,
    "catalog": ingests.catalog_rows,
    "scale-fleet": scale.fleet_rows,
    "scale-thin": scale.thin_rows,
    "scale-long": scale.long_rows,
}
"""Rows by the name that --rows takes: those of a group share what they need."""
RUN: Final = "run.json"
TABLE: Final = "table.md"
REST: Final = "the rest"


class Ended(Exception):
    """The bench is told to end: what is mounted is unmounted, what was measured is kept."""


def measure(bench: Bench, patterns: Sequence[str], left_out: dict[str, str]) -> Iterator[Row]:
    """The rows of every group that one of *patterns* matches; what is under way goes to stderr.

    *left_out* comes to hold why a group cannot be measured here.
    """
    for name, group in GROUPS.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            started = time.monotonic()
            try:
                yield from group(bench)
            except LeftOut as exc:
                left_out[name] = str(exc)
                print(f"{name}: left out: {exc}", file=sys.stderr)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def run_all(bench: Bench, patterns: Sequence[str], out: TextIO) -> dict[str, Any]:
    """The document of a run; its table goes to *out* line by line."""
    raise_file_limit()
    machine = describe(bench.folder)
    print(heading(machine), file=out, flush=True)
    rows, left_out = [], dict[str, str]()
    started = time.monotonic()
    try:
        for row in measure(bench, patterns, left_out):
            print(render(row), file=out, flush=True)
            rows.append(row)
    except Ended:
        left_out[REST] = "the run was told to end"
    machine["minutes"] = f"{(time.monotonic() - started) / 60:.0f}"
    return document(rows, machine, bench.sizes.name, left_out)


def save(found: Mapping[str, Any], path: Path) -> None:
    """Write all samples down."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def publish(found: Mapping[str, Any], folder: Path) -> None:
    """Write down samples, table and plots, in place of those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    save(found, folder / RUN)
    (folder / TABLE).write_text(page(found))
    draw(found, folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of all: under three minutes")
    parser.add_argument(
        "--rows", metavar="PATTERN", action="append", help=f"some of: {', '.join(GROUPS)}"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there too")
    parser.add_argument(
        "--into", metavar="DIR", type=Path, help="write samples, table and plots there"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="make the data there; keep it")
    parser.add_argument(
        "--before", metavar="CHECKOUT", type=Path, help="measure that cbtfs beside this one"
    )
    return parser.parse_args()


def end(*_: object) -> NoReturn:
    """What SIGTERM does; once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended


def main() -> int:
    """Run the bench; the exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, end)
    sizes = QUICK if arguments.quick else FULL
    try:
        require()
        folder = arguments.keep or Path(tempfile.mkdtemp(prefix="cbtfs-bench-", dir="/var/tmp"))
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.absolute()
        bench = Bench(folder, sizes, Stock(folder, sizes), arguments.before)
        try:
            found = run_all(bench, arguments.rows or ["*"], sys.stdout)
        finally:
            if arguments.keep is None:
                shutil.rmtree(folder)
        if arguments.json is not None:
            save(found, arguments.json)
        if arguments.into is not None:
            publish(found, arguments.into)
    except CbtfsError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
