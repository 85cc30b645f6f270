"""The map of tests: which tests reach which line, and the duration of each test.

The map is measured once and stored in a file. Scope and text identify a line, not its number, so
the map stays valid when code moves. Child processes of a test count for that test.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import coverage

from tools.mutate import examples, plugin
from tools.mutate.mutants import Mutant, scopes_by_line
from tools.mutate.sandbox import Sandbox

PACKAGES: Final = ("core", "store", "ingest", "restore", "prune", "source/vsphere")
TESTS: Final = (
    "tests/core", "tests/store", "tests/docs/test_format.py", "tests/test_reader.py",
    "tests/restore", "tests/check", "tests/prune", "tests/scenarios/test_streams.py",
    "tests/scenarios/test_hostile_names.py", "tests/ingest",
    "tests/source", "tests/cli", "tests/scenarios/vsphere", "tests/test_repair.py",
)  # fmt: skip
"""Tests of the mutated packages; those of the simulator, the mount, docs and tools are omitted."""

_RC: Final = """[run]
branch = False
parallel = True
sigterm = True
data_file = {folder}/data
context = ${{{context}-}}
include = {include}
disable_warnings = no-data-collected, module-not-imported
"""
_EXAMPLES: Final = 10
"""Number of examples per property, enough to reach its lines."""
_WHOLE_RUN_SECONDS: Final = 7200.0


@dataclass(frozen=True, slots=True)
class Reach:
    """Tests by module, scope and line; seconds by test."""

    lines: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]

    def with_newer(self, newer: "Reach") -> "Reach":
        """Return this map with the entries of *newer* for the tests that *newer* includes."""
        lines: dict[str, dict[str, list[str]]] = {}
        for module in sorted({*self.lines, *newer.lines}):
            before, after = self.lines.get(module, {}), newer.lines.get(module, {})
            for key in {*before, *after}:
                kept = {test for test in before.get(key, ()) if test not in newer.seconds}
                lines.setdefault(module, {})[key] = sorted(kept | {*after.get(key, ())})
        return Reach(lines, self.seconds | newer.seconds)

    def tests_for(self, mutant: Mutant, budget: float) -> list[str]:
        """Return tests that reach *mutant*, likely and fast ones first, of *budget* seconds."""
        lines = self.lines.get(mutant.path, {})
        tests = None if mutant.at_import else lines.get(f"{mutant.scope}\t{mutant.text}")
        if not tests:  # new or changed code: use all tests of the function or the module
            prefix = f"{mutant.scope}\t" if mutant.scope else ""
            tests = sorted({test for key in lines if key.startswith(prefix) for test in lines[key]})
        return _chosen([t for t in tests if t in self.seconds], self.seconds, mutant, budget)


def _chosen(
    tests: Iterable[str], seconds: dict[str, float], mutant: Mutant, budget: float
) -> list[str]:
    words = set(mutant.path.removesuffix(".py").split("/")) - {"cbtfs", "run"}
    by_file: dict[str, list[str]] = {}
    for test in sorted(tests, key=lambda test: (seconds[test], test)):
        by_file.setdefault(test.partition("::")[0], []).append(test)
    ranked = []
    for file, candidates in by_file.items():
        near = sum(word in file for word in words)
        # All tests of a file named like the module come early; other files take turns.
        ranked += [(rank / (1 + 8 * near), seconds[t], t) for rank, t in enumerate(candidates)]
    chosen: list[str] = []
    spent = 0.0
    for _, cost, test in sorted(ranked):
        if chosen and spent + cost > budget:
            continue
        chosen.append(test)
        spent += cost
    return chosen


def measure(sandbox: Sandbox, tests: Sequence[str], output: Path) -> Reach:
    """Run *tests* under coverage in *sandbox*; return the map without tests that failed."""
    folder = sandbox.folder / "reach"
    folder.mkdir()
    results = folder / "results"
    results.touch()
    rc = folder / "rc"
    include = ",".join(f"{sandbox.folder}/cbtfs/{package}/*" for package in PACKAGES)
    rc.write_text(_RC.format(folder=folder, context=plugin.CONTEXT, include=include))
    command = [
        "-m", "coverage", "run", f"--rcfile={rc}", "-m", "pytest", "-q",
        "-p", "tools.mutate.plugin", "-p", "tools.mutate.examples", "-p", "no:cacheprovider",
        "--hypothesis-seed=0", *tests,
    ]  # fmt: skip
    sandbox.run(
        command,
        _WHOLE_RUN_SECONDS,
        output,
        {
            "COVERAGE_PROCESS_START": str(rc),
            plugin.RESULTS: str(results),
            examples.EXAMPLES: str(_EXAMPLES),
        },
    )
    return _read(sandbox, folder, results)


def _read(sandbox: Sandbox, folder: Path, results: Path) -> Reach:
    seconds = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        if result["passed"]:
            seconds[result["test"]] = result["seconds"]
    combined = coverage.Coverage(data_file=str(folder / "data"), config_file=str(folder / "rc"))
    combined.combine([str(folder)])
    data = combined.get_data()
    lines: dict[str, dict[str, list[str]]] = {}
    for file in data.measured_files():
        path = Path(file)
        texts = {n: (scope, text) for n, scope, text in scopes_by_line(path.read_bytes())}
        module = path.relative_to(sandbox.folder).as_posix()
        reached: dict[str, set[str]] = {}
        for number, contexts in data.contexts_by_lineno(file).items():
            scope, text = texts.get(number, ("", ""))
            reached.setdefault(f"{scope}\t{text}", set()).update(filter(None, contexts))
        lines[module] = {key: sorted(tests) for key, tests in reached.items()}
    return Reach(lines, seconds)


def save_reach(path: Path, reach: Reach) -> None:
    """Write the map to the file *path*, with numbers in place of test names."""
    names = sorted({t for texts in reach.lines.values() for tests in texts.values() for t in tests})
    names = sorted({*names, *reach.seconds})
    numbers = {name: number for number, name in enumerate(names)}
    lines = {
        module: {key: [numbers[t] for t in tests] for key, tests in texts.items()}
        for module, texts in reach.lines.items()
    }
    document = {"tests": names, "seconds": reach.seconds, "lines": lines}
    path.write_text(json.dumps(document), encoding="utf-8")


def load_reach(path: Path) -> Reach:
    """Return the map in the file *path*."""
    document = json.loads(path.read_text(encoding="utf-8"))
    names = document["tests"]
    lines = {
        module: {key: [names[n] for n in tests] for key, tests in texts.items()}
        for module, texts in document["lines"].items()
    }
    return Reach(lines, document["seconds"])
