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
from typing import Final

from cbtfs.errors import CbtfsError
from tools.bench import depth, ingests, reads, restores
from tools.bench.bench import Bench
from tools.bench.machine import describe
from tools.bench.programs import require
from tools.bench.row import Row
from tools.bench.sizes import FULL, QUICK, Sizes
from tools.bench.stock import Stock
from tools.bench.table import document, heading, render

GROUPS: Final[Mapping[str, Callable[[Bench], Iterator[Row]]]] = {
    "read-chain": reads.chain_rows,
    "read-cold": reads.cold_rows,
    "read-raw": reads.raw_rows,
    "read-second": reads.second_rows,
    "read-memory": reads.memory_rows,
    "depth": depth.depth_rows,
    "ingest-full": ingests.full_rows,
    "ingest-incremental": ingests.incremental_rows,
    "ingest-compare": ingests.compare_rows,
    "small": ingests.small_rows,
    "restore": restores.restore_rows,
    "catalog": ingests.catalog_rows,
}
"""Rows by the name that --rows takes: those of a group share what they need."""


def measure(
    folder: Path, sizes: Sizes, patterns: Sequence[str], before: Path | None
) -> Iterator[Row]:
    """The rows of every group that one of *patterns* matches; what is under way goes to stderr."""
    bench = Bench(folder, sizes, Stock(folder, sizes), before)
    for name, group in GROUPS.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            started = time.monotonic()
            yield from group(bench)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small data: under three minutes")
    parser.add_argument(
        "--rows", metavar="PATTERN", action="append", help=f"some of: {', '.join(GROUPS)}"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there too")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="make the data there; keep it")
    parser.add_argument(
        "--before", metavar="CHECKOUT", type=Path, help="measure that cbtfs beside this one"
    )
    return parser.parse_args()


def main() -> int:
    """Run the bench; the exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is mounted is unmounted
    sizes = QUICK if arguments.quick else FULL
    try:
        require()
        folder = arguments.keep or Path(tempfile.mkdtemp(prefix="cbtfs-bench-", dir="/var/tmp"))
        folder.mkdir(parents=True, exist_ok=True)
        machine = describe(folder)
        print(heading(machine), flush=True)
        rows = []
        try:
            for row in measure(folder, sizes, arguments.rows or ["*"], arguments.before):
                print(render(row), flush=True)
                rows.append(row)
        finally:
            if arguments.keep is None:
                shutil.rmtree(folder)
    except CbtfsError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return exc.exit_code
    if arguments.json is not None:
        text = json.dumps(document(rows, machine, sizes.name), indent=1, ensure_ascii=False)
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
