"""A row says how ours compares, whichever way is better."""

import json

import pytest

from tools.bench.row import OURS, Goal, Row, in_turns
from tools.bench.table import document, heading, render


def row(*, is_more_better: bool, ours: float, theirs: float, bound: float) -> Row:
    samples = {OURS: [ours, ours, ours * 9], "peer": [theirs]}
    return Row("speed", "MB/s", is_more_better, "warm", samples, [Goal(bound, "peer")])


@pytest.mark.parametrize(
    ("is_more_better", "ours", "theirs", "ratio"), [(True, 30, 10, 3.0), (False, 10, 30, 3.0)]
)
def test_a_ratio_above_one_is_better(
    is_more_better: bool, ours: float, theirs: float, ratio: float
) -> None:
    found = row(is_more_better=is_more_better, ours=ours, theirs=theirs, bound=2.5)

    assert found.ratio("peer") == ratio
    assert found.verdict == "met"


def test_a_goal_can_be_a_bound_for_ours_alone() -> None:
    small = Row("memory", "MiB", False, "-", {OURS: [100.0]}, [Goal(150)])
    large = Row("memory", "MiB", False, "-", {OURS: [200.0]}, [Goal(150)])

    assert (small.verdict, large.verdict) == ("met", "missed")


def test_contenders_take_turns_at_being_first() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return 1.0

    samples = in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)

    assert order == ["a", "b", "b", "a"]
    assert samples == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_the_table_and_the_document_name_machine_contenders_and_verdict() -> None:
    rows = [row(is_more_better=True, ours=1, theirs=2, bound=0.75)]

    text = "\n".join([heading({"kernel": "6.1"}), *map(render, rows)])
    found = json.loads(json.dumps(document(rows, {"kernel": "6.1"}, "tiny")))

    assert "kernel: 6.1" in text
    assert "| peer | 2 |" in text
    assert "**missed**" in text
    assert found["rows"][0]["contenders"]["peer"]["ratio"] == 0.5
    assert found["rows"][0]["verdict"] == "missed"
