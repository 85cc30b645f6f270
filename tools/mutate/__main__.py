"""Mutation run: `python -m tools.mutate [--sample N] [--seed N] [--jobs N] [--only PATH…]`.

Each mutant is tested by the tests that reach its line, likely and fast ones first, until one fails.
Tests run in a copy of the checkout in separate namespaces, so the run needs root. Results are
stored in --state, from which an interrupted run is resumed. --measure renews the map of tests and
lines; --again runs survivors again.
"""

import argparse
import difflib
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tools.mutate.journal import Journal, MutantResult, Result, load_equivalent, report
from tools.mutate.mutants import Mutant, mutants_of
from tools.mutate.reach import PACKAGES, TESTS, Reach, load_reach, measure, save_reach
from tools.mutate.sandbox import ROOT, Sandbox
from tools.mutate.server import TIMED_OUT

_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)
_START_SECONDS: Final = 60.0
"""Part of a mutant's time limit for the start of pytest."""
_SLOWER: Final = 8.0
"""The other part of the time limit, as a multiple of the duration of the tests."""
_SURVIVED, _CAUGHT, _NOT_STARTED = 0, (1, 2), 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a mutant survives that is not known to be equivalent."""
    options = _parser().parse_args(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    mutants = _all_mutants(options.only)
    random.Random(options.seed).shuffle(mutants)
    sample = mutants[: options.sample] if options.sample else mutants
    if options.count:
        print(f"{len(mutants)} mutants, {len(sample)} in the sample")
        return 0
    journal = Journal(options.state / "journal")
    equivalent = load_equivalent()
    if not options.report:
        _run(sample, journal, equivalent, options)
    print(report(sample, journal, equivalent))
    return any(
        mutant.key in journal.results
        and journal.results[mutant.key].result in ("survived", "unreached")
        and mutant.key not in equivalent
        for mutant in sample
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="how many mutants (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel mutants")
    parser.add_argument("--only", nargs="*", default=[], metavar="PATH", help="modules or folders")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests per mutant")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="start no mutant after this time"
    )
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="TEST",
        help="renew the map of all tests, or of some files of tests",
    )
    parser.add_argument("--again", action="store_true", help="run survivors again")
    parser.add_argument("--report", action="store_true", help="only print what the journal has")
    parser.add_argument("--count", action="store_true", help="only count mutants")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "mutate")
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm/cbtfs-mutate"))
    return parser


def _all_mutants(only: Sequence[str]) -> list[Mutant]:
    mutants = []
    for package in PACKAGES:
        for file in sorted((ROOT / "cbtfs" / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not only or any(path.startswith(prefix) for prefix in only):
                mutants += mutants_of(path, file.read_bytes())
    return mutants


def _run(
    sample: Sequence[Mutant],
    journal: Journal,
    equivalent: dict[str, str],
    options: argparse.Namespace,
) -> None:
    wanted = [m for m in sample if _is_wanted(m, journal, equivalent, options.again)]
    if not wanted:
        return
    reach = _reach(options)
    boxes: SimpleQueue[Sandbox] = SimpleQueue()
    made = [Sandbox(options.scratch / f"{os.getpid()}-{n}") for n in range(options.jobs)]
    deadline = time.monotonic() + options.minutes * 60 if options.minutes else None

    def run_one(numbered: tuple[int, Mutant]) -> None:
        if deadline is not None and time.monotonic() > deadline:
            return
        box = boxes.get()
        try:
            result = try_mutant(box, numbered[1], reach, options.budget)
        finally:
            boxes.put(box)
        journal.add(result)
        where = f"{result.path}:{result.line}"
        print(f"{numbered[0]}/{len(wanted)} {result.result} {where} {result.operator}", flush=True)

    for box in made:
        boxes.put(box)
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(run_one, enumerate(wanted, 1)))
    finally:
        for box in made:
            box.remove()


def _is_wanted(
    mutant: Mutant, journal: Journal, equivalent: dict[str, str], is_again: bool
) -> bool:
    result = journal.results.get(mutant.key)
    if result is None:
        return True
    is_survivor = result.result in ("survived", "unreached") and mutant.key not in equivalent
    return is_again and is_survivor


def _reach(options: argparse.Namespace) -> Reach:
    path: Path = options.state / "reach.json"
    known = load_reach(path) if path.exists() else Reach({}, {})
    if options.measure is None and path.exists():
        return known
    box = Sandbox(options.scratch / f"{os.getpid()}-reach")
    try:
        measured = measure(box, options.measure or TESTS, options.state / "reach.output")
    finally:
        box.remove()
    known = known.with_newer(measured) if options.measure else measured
    save_reach(path, known)
    return known


def try_mutant(
    box: Sandbox,
    mutant: Mutant,
    reach: Reach,
    budget: float,
    start_seconds: float = _START_SECONDS,
) -> MutantResult:
    """Run the tests for *mutant* in *box*; restore the module afterwards."""
    begin = time.monotonic()
    source = box.read(mutant.path)
    tests = reach.tests_for(mutant, budget)
    result: Result = "unreached"
    by = ""
    if tests:
        limit = start_seconds + _SLOWER * sum(reach.seconds[test] for test in tests)
        box.write(mutant.path, mutant.apply(source))
        try:
            result, by = _tested(box, tests, limit)
        finally:
            box.write(mutant.path, source)
    return MutantResult(
        key=mutant.key,
        path=mutant.path,
        package=mutant.package,
        operator=mutant.operator,
        line=mutant.line,
        result=result,
        by=by,
        tests=len(tests),
        seconds=round(time.monotonic() - begin, 1),
        diff=_diff(mutant, source),
    )


def _tested(box: Sandbox, tests: Sequence[str], limit: float) -> tuple[Result, str]:
    names, output = box.folder / "tests.txt", box.folder / "output"
    names.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
    code = box.test(
        ["-q", "-x", "-p", "no:cacheprovider", "-p", "tools.mutate.examples", "--hypothesis-seed=0",
         "-W", "ignore::pytest.PytestAssertRewriteWarning", "--tb=line", f"@{names}"],
        limit,
        output,
    )  # fmt: skip
    text = output.read_text(errors="replace")
    failed = _FAILED.search(text)
    if code == TIMED_OUT:
        return "timeout", ""
    if code == _SURVIVED:
        return "survived", ""
    if code == _NOT_STARTED and "not found" in text and len(tests) > 1:
        missing = set(re.findall(r"not found: \S*?(tests/.*)$", text, re.M))
        left = [test for test in tests if test not in missing]
        if left and len(left) < len(tests):
            return _tested(box, left, limit)
    if code in _CAUGHT or code == _NOT_STARTED or code > 128 or code < 0:
        return "caught", failed.group(1) if failed else f"pytest ended with code {code}"
    raise RuntimeError(f"the tests could not be run (exit code {code}): {text[-2000:]}")


def _diff(mutant: Mutant, source: bytes) -> str:
    before, after = (text.decode().splitlines() for text in (source, mutant.apply(source)))
    return "\n".join(list(difflib.unified_diff(before, after, lineterm="", n=1))[2:])


if __name__ == "__main__":
    sys.exit(main())
