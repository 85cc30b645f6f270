"""Fuzz decoders: `python -m tools.fuzz [--seconds S] [--corpus DIR] [TARGET…]`, all by default.

Each target runs for S seconds in a separate process; as many run in parallel as there are cores. An
input that causes an unexpected error stays in the corpus folder, and its name is printed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

MODULES: Final = ["cbtfs"]
_LIMIT_MIB: Final = 1024
_MAX_BYTES: Final = 65536


class FuzzResult(NamedTuple):
    """Number of runs of a target, and its failure."""

    target: str
    runs: int
    failure: str
    """Last output of the fuzzer; empty without a failure."""


def fuzz(targets: Sequence[str], seconds: int, corpus: Path, runs: int = -1) -> list[FuzzResult]:
    """Run *targets* one after the other, each until *seconds* or *runs* are over.

    One process imports the instrumented program, which takes seconds, and forks for each target.
    """
    with tempfile.TemporaryDirectory(dir=corpus) as scratch:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tools.fuzz", "--child", f"--corpus={corpus}"),
                *(f"--seconds={seconds}", f"--runs={runs}", *targets),
            ],
            check=False,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            env={**os.environ, "TMPDIR": scratch},
        )
        return [_result(target, corpus / f"{target}.log", done.stderr) for target in targets]


def _result(target: str, log: Path, output: str) -> FuzzResult:
    """Read what the fuzzer wrote about *target*; *output* tells why it wrote nothing."""
    text = log.read_text(errors="backslashreplace") if log.exists() else output
    counts = re.findall(r"^Done (\d+) runs", text, re.M)
    failure = "" if counts and not re.search(r"^exit status [^0]", text, re.M) else text[-3000:]
    return FuzzResult(target, int(counts[-1]) if counts else 0, failure)


def _child(targets: Sequence[str], seconds: int, corpus: Path, runs: int) -> None:
    import atheris

    with atheris.instrument_imports(include=MODULES):
        from tools.fuzz.targets import TARGETS, seeds
    for target in targets:
        log = corpus / f"{target}.log"
        child = os.fork()
        if not child:
            _redirect_output(log)
            _fuzz_one(TARGETS[target], seeds(target), corpus / target, seconds, runs)
        _, status = os.waitpid(child, 0)
        with log.open("a") as out:
            print(f"exit status {os.waitstatus_to_exitcode(status)}", file=out)


def _redirect_output(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _fuzz_one(
    target: Callable[[bytes], None], seeds: Iterable[bytes], corpus: Path, seconds: int, runs: int
) -> NoReturn:
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-max_len={_MAX_BYTES}",
        f"-rss_limit_mb={_LIMIT_MIB}",
        f"-artifact_prefix={corpus}/failure-",
        "-timeout=10",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()
    os._exit(0)  # the fuzzer exits by itself; this line is for a version that returns


def main() -> int:
    """Run the targets; return exit status 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="time per target (default: 3)")
    parser.add_argument(
        "--corpus", type=Path, help="folder for inputs and failures (default: a temporary one)"
    )
    parser.add_argument(
        "--runs", type=int, default=-1, help="inputs per target (default: no limit)"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    given = parser.parse_args()
    if given.child:
        _child(given.targets, given.seconds, given.corpus, given.runs)
        return 0
    from tools.fuzz.targets import TARGETS

    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="cbtfs-fuzz-"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        names = given.targets or list(TARGETS)
        lists = pool.map(lambda name: fuzz([name], given.seconds, corpus, given.runs), names)
        results = [result for results in lists for result in results]
    for result in results:
        status = "FAILED" if result.failure else "ok"
        print(f"{result.target.ljust(14)} {result.runs:>10} runs  {status}")
        if result.failure:
            print(result.failure)
    return int(any(result.failure for result in results))


if __name__ == "__main__":
    sys.exit(main())
