"""Results of mutants, one JSON object per line, from which an interrupted run is resumed."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from tools.mutate.mutants import Mutant

Result = Literal["caught", "timeout", "survived", "unreached"]

EQUIVALENT: Final = Path(__file__).with_name("equivalent.txt")


@dataclass(frozen=True, slots=True)
class MutantResult:
    """The result of one mutant."""

    key: str
    path: str
    package: str
    operator: str
    line: int
    result: Result
    by: str
    """The test that failed first."""
    tests: int
    seconds: float
    diff: str


class Journal:
    """The file of results."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: dict[str, MutantResult] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                result = MutantResult(**json.loads(line))
                self.results[result.key] = result

    def add(self, result: MutantResult) -> None:
        """Write one result; the last one for a mutant counts."""
        self.results[result.key] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def load_equivalent(path: Path = EQUIVALENT) -> dict[str, str]:
    """Return the keys of mutants without visible effect, each with the reason."""
    reasons = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                key, _, reason = line.partition(" ")
                reasons[key] = reason.strip()
    return reasons


def report(mutants: Iterable[Mutant], journal: Journal, equivalent: dict[str, str]) -> str:
    """Return a table by package, and the survivors with their diffs."""
    counts: dict[str, dict[str, int]] = {}
    survivors = []
    for mutant in mutants:
        result = journal.results.get(mutant.key)
        if result is None:
            continue
        kind: str = result.result
        if kind in ("survived", "unreached"):
            if mutant.key in equivalent:
                kind = "equivalent"
            else:
                survivors.append(result)
        for row in (mutant.package, "all"):
            column = counts.setdefault(row, {})
            column[kind] = column.get(kind, 0) + 1
    lines = ["package          mutants  caught  by time  equivalent  survived  caught of the rest"]
    for row in sorted(counts, key=lambda name: (name == "all", name)):
        column = counts[row]
        total, same = sum(column.values()), column.get("equivalent", 0)
        timeout = column.get("timeout", 0)
        caught = column.get("caught", 0)
        left = total - same - caught - timeout
        share = 100 * (caught + timeout) / (total - same) if total > same else 100.0
        lines.append(
            f"{row:<16} {total:7}  {caught:6}  {timeout:7}  {same:10}  {left:8}  {share:17.1f}%"
        )
    for result in survivors:
        lines += ["", f"{result.key} {result.path}:{result.line} {result.operator}"
                  f" ({result.result}, {result.tests} tests)", result.diff]  # fmt: skip
    return "\n".join(lines)
