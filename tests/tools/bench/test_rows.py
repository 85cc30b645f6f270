"""A row gives the ratio of cbtfs to a peer, whether more or less is better."""

import json

import pytest

from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.table import document, heading, render


def row(*, is_higher_better: bool, ours: float, theirs: float, bound: float) -> Row:
    samples = {OURS: [ours, ours, ours * 9], "peer": [theirs]}
    return Row("speed", "MB/s", is_higher_better, "warm", samples, [Goal(bound, "peer")])


@pytest.mark.parametrize(
    ("is_higher_better", "ours", "theirs", "ratio"), [(True, 30, 10, 3.0), (False, 10, 30, 3.0)]
)
def test_a_ratio_above_one_is_better(
    is_higher_better: bool, ours: float, theirs: float, ratio: float
) -> None:
    compared = row(is_higher_better=is_higher_better, ours=ours, theirs=theirs, bound=2.5)

    assert compared.ratio("peer") == ratio
    assert compared.result == "met"


def test_a_goal_without_a_peer_bounds_the_figure_of_cbtfs() -> None:
    small = Row("memory", "MiB", False, "-", {OURS: [100.0]}, [Goal(150)])
    large = Row("memory", "MiB", False, "-", {OURS: [200.0]}, [Goal(150)])

    assert (small.result, large.result) == ("met", "missed")


def test_the_first_contender_changes_with_each_round() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return 1.0

    samples = alternate({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)

    assert order == ["a", "b", "b", "a"]
    assert samples == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_the_table_and_the_document_have_machine_contenders_and_result() -> None:
    rows = [row(is_higher_better=True, ours=1, theirs=2, bound=0.75)]

    text = "\n".join([heading({"kernel": "6.1"}), *map(render, rows)])
    written = json.loads(json.dumps(document(rows, {"kernel": "6.1"}, "tiny")))

    assert "kernel: 6.1" in text
    assert "| peer | 2 |" in text
    assert "**missed**" in text
    assert written["rows"][0]["contenders"]["peer"]["ratio"] == 0.5
    assert written["rows"][0]["verdict"] == "missed"
