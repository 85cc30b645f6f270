"""Fuzz decoders: `python -m tools.fuzz [--seconds S] [--corpus DIR] [TARGET…]`, all by default.

Each target runs for S seconds in a separate process; as many run in parallel as there are cores. An
input that causes an unexpected error stays in the corpus folder, and its name is printed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

MODULES: Final = ["cbtfs"]
_LIMIT_MIB: Final = 1024
_MAX_BYTES: Final = 65536


class FuzzResult(NamedTuple):
    """Number of runs of a target, and its failure."""

    target: str
    runs: int
    failure: str
    """Last output of the fuzzer; empty without a failure."""


def fuzz(target: str, seconds: int, corpus: Path) -> FuzzResult:
    """Run one target in a separate process."""
    folder, scratch = corpus / target, corpus / f"{target}.scratch"
    folder.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tools.fuzz", "--child", target, f"--corpus={folder}"]
    done = subprocess.run(
        [*command, f"--seconds={seconds}"],
        check=False,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    shutil.rmtree(scratch)  # the fuzzer exits without the cleanup of Python
    counts = re.findall(r"^Done (\d+) runs", done.stderr, re.M)
    failure = "" if done.returncode == 0 and counts else (done.stdout + done.stderr)[-3000:]
    return FuzzResult(target, int(counts[-1]) if counts else 0, failure or "")


def _child(target: str, seconds: int, corpus: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=MODULES):
        from tools.fuzz.targets import TARGETS, seeds
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_BYTES}",
        f"-rss_limit_mb={_LIMIT_MIB}",
        f"-artifact_prefix={corpus}/failure-",
        "-timeout=10",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    """Run the targets; return exit status 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="time per target (default: 3)")
    parser.add_argument(
        "--corpus", type=Path, help="folder for inputs and failures (default: a temporary one)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    given = parser.parse_args()
    if given.child:
        _child(given.child, given.seconds, given.corpus)
        return 0
    from tools.fuzz.targets import TARGETS

    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="cbtfs-fuzz-"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        names = given.targets or list(TARGETS)
        results = list(pool.map(lambda name: fuzz(name, given.seconds, corpus), names))
    for result in results:
        status = "FAILED" if result.failure else "ok"
        print(f"{result.target.ljust(14)} {result.runs:>10} runs  {status}")
        if result.failure:
            print(result.failure)
    return int(any(result.failure for result in results))


if __name__ == "__main__":
    sys.exit(main())
