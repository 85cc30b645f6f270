"""What became of each mutant, a line of JSON each: a run that was ended goes on where it was."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from tools.mutate.mutants import Mutant

Result = Literal["caught", "timeout", "survived", "unreached"]

EQUIVALENT: Final = Path(__file__).with_name("equivalent.txt")


@dataclass(frozen=True, slots=True)
class Verdict:
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
        self.verdicts: dict[str, Verdict] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                verdict = Verdict(**json.loads(line))
                self.verdicts[verdict.key] = verdict

    def add(self, verdict: Verdict) -> None:
        """Write one result; the last one for a mutant counts."""
        self.verdicts[verdict.key] = verdict
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")


def load_equivalent(path: Path = EQUIVALENT) -> dict[str, str]:
    """Keys of mutants that change nothing that a caller could see, each with the reason."""
    found = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                key, _, reason = line.partition(" ")
                found[key] = reason.strip()
    return found


def report(mutants: Iterable[Mutant], journal: Journal, equivalent: dict[str, str]) -> str:
    """A table by package, and the survivors with what they change."""
    counts: dict[str, dict[str, int]] = {}
    survivors = []
    for mutant in mutants:
        verdict = journal.verdicts.get(mutant.key)
        if verdict is None:
            continue
        result: str = verdict.result
        if result in ("survived", "unreached"):
            if mutant.key in equivalent:
                result = "equivalent"
            else:
                survivors.append(verdict)
        for row in (mutant.package, "all"):
            column = counts.setdefault(row, {})
            column[result] = column.get(result, 0) + 1
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
    for verdict in survivors:
        lines += ["", f"{verdict.key} {verdict.path}:{verdict.line} {verdict.operator}"
                  f" ({verdict.result}, {verdict.tests} tests)", verdict.diff]  # fmt: skip
    return "\n".join(lines)
