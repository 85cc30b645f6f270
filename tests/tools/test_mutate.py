"""The mutation driver: mutants, unchanged places, and the difference of caught and survived."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.mutate.__main__ import try_mutant
from tools.mutate.journal import Journal, MutantResult, Result, report
from tools.mutate.mutants import Mutant, mutants_of, scopes_by_line
from tools.mutate.reach import Reach
from tools.mutate.sandbox import ROOT, Sandbox

MODULE = '''"""Text with 1 + 1."""
import logging, os

log = logging.getLogger(__name__)
LIMIT: "int" = 7


class Store:
    """Keeps 3 things."""

    def __repr__(self) -> str:
        return "x" * 3

    def put(self, fd: int, sizes: list[int]) -> bool:
        """Put 4 things."""
        if not sizes or max(sizes) > LIMIT:
            raise ValueError(f"more than {LIMIT + 0}")
        try:
            os.fsync(fd)
        except OSError as exc:
            log.warning("%d of %d", 5, 6)
            self.failed = True
        return self.check(fd)
'''


def changes(source: str) -> set[tuple[str, str, str]]:
    """Return operator, original and replacement of each mutant."""
    data = source.encode()
    return {
        (mutant.operator, data[mutant.start : mutant.end].decode(), mutant.replacement)
        for mutant in mutants_of("cbtfs/core/sample.py", data)
    }


def test_a_module_has_these_mutants_and_no_others() -> None:
    handler = 'log.warning("%d of %d", 5, 6)\n            self.failed = True'
    condition = "not sizes or max(sizes) > LIMIT"

    assert changes(MODULE) == {
        ("constant", "7", "8"),
        ("condition", condition, "True"),
        ("condition", condition, "False"),
        ("boolean", "not sizes", "(sizes)"),
        ("boolean", "or", "and"),
        ("call", "max", "min"),
        ("comparison", ">", ">="),
        ("comparison", ">", "<="),
        ("remove raise", 'raise ValueError(f"more than {LIMIT + 0}")', "pass"),
        ("remove statement", "os.fsync(fd)", "pass"),
        ("swallow exception", handler, "pass"),
        ("let exception through", handler, "raise"),
        ("remove statement", "self.failed = True", "pass"),
        ("constant", "True", "False"),
        ("return value", "self.check(fd)", "not (self.check(fd))"),
    }


def test_every_mutant_of_a_module_is_another_program_with_its_own_key() -> None:
    path = "cbtfs/core/moment.py"
    source = (ROOT / path).read_bytes()
    mutants = mutants_of(path, source)

    assert len({mutant.key for mutant in mutants}) == len(mutants) > 10
    for mutant in mutants:
        assert mutant.apply(source) != source
        compile(mutant.apply(source), path, "exec")


def test_a_key_stays_when_the_code_moves() -> None:
    before = mutants_of("a.py", MODULE.encode())
    after = mutants_of("a.py", MODULE.replace("\nLIMIT", "\n# more\n\nLIMIT").encode())

    assert [mutant.key for mutant in before] == [mutant.key for mutant in after]


def test_lines_know_their_scope() -> None:
    scopes = {text: scope for _, scope, text in scopes_by_line(MODULE.encode())}

    assert scopes["os.fsync(fd)"] == "Store.put"
    assert scopes["class Store:"] == "Store"
    assert scopes["import logging, os"] == ""


def result_of(mutant: Mutant, result: Result) -> MutantResult:
    return MutantResult(
        mutant.key, mutant.path, mutant.package, mutant.operator, mutant.line, result, "", 1, 0, "-"
    )


def test_equivalent_mutants_do_not_count_in_the_share(tmp_path: Path) -> None:
    mutants = mutants_of("cbtfs/core/sample.py", MODULE.encode())[:8]
    other: list[Result] = ["timeout", "survived", "unreached", "survived"]
    journal = Journal(tmp_path / "journal")
    for mutant in mutants[:4]:
        journal.add(result_of(mutant, "caught"))
    for mutant, result in zip(mutants[4:], other, strict=True):
        journal.add(result_of(mutant, result))

    text = report(mutants, Journal(tmp_path / "journal"), {mutants[-1].key: "it is the same"})

    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["core", "8", "4", "1", "1", "2", "71.4%"],
        ["all", "8", "4", "1", "1", "2", "71.4%"],
    ]
    assert mutants[5].key in text
    assert mutants[-1].key not in text


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path_factory.mktemp("mutate") / "box")
    yield made
    made.remove()


EXTENT = "cbtfs/core/extent.py"
NEAR = "test_an_invalid_extent_is_refused"


@pytest.mark.mounts
def test_mutants_are_caught_survive_or_time_out_and_the_checkout_is_unchanged(box: Sandbox) -> None:
    source = (ROOT / EXTENT).read_bytes()
    tests = [f"tests/core/test_extent.py::{name}" for name in (NEAR, "test_that_is_gone")]
    reach = Reach({EXTENT: {"": tests}}, dict.fromkeys(tests, 0.0))
    start = source.index(b"\ndef ")
    results = []
    for code, limit in (("raise SystemError", 60.0), ("pass", 60.0), ("while True: pass", 3.0)):
        mutant = Mutant(EXTENT, "", 1, "", "-", start, start, f"\n{code}", True)
        results.append(try_mutant(box, mutant, reach, budget=1.0, start_seconds=limit).result)

    assert results == ["caught", "survived", "timeout"]
    assert (ROOT / EXTENT).read_bytes() == box.read(EXTENT) == source
