"""Sizes and ratios against the bytes that a prune really frees."""

import json
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.blockmap import FANOUT
from tests.make_points import BLOCK
from tests.scenarios.repository_history import History, image


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    history.add(image(*range(1, FANOUT + 30)))
    history.add(image(*range(1, FANOUT), *range(500, 530)))
    history.add(image(*range(900, 930)), vm="other")
    history.add(image(*range(900, 905), *range(500, 502)), vm="other")
    return history


@pytest.fixture
def stats(history: History, capsys: pytest.CaptureFixture[str]) -> Any:
    def stats(*arguments: str) -> dict[str, Any]:
        assert main([f"--repo={history.path}", "stats", "--json", *arguments]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return stats


@pytest.mark.parametrize("which", range(4))
def test_the_freed_bytes_of_a_point_are_those_a_prune_drops(
    history: History, stats: Any, which: int
) -> None:
    row = stats()["points"][which]

    history.forget(row["id"])

    assert history.prune().dead_bytes == row["freed_bytes"]


def test_the_unique_bytes_of_a_vm_are_those_a_prune_frees(history: History, stats: Any) -> None:
    other = stats("other")

    history.forget(*(row["id"] for row in other["points"]))
    assert history.prune().dead_bytes == other["unique_bytes"]
    assert other["shared_bytes"] > 2 * BLOCK


def test_a_point_is_measured_alone(history: History, stats: Any) -> None:
    point = list(history.expected)[1]

    document = stats(point)

    assert [row["id"] for row in document["points"]] == [point]
    assert document["unique_bytes"] == document["points"][0]["freed_bytes"]
    assert document["logical_bytes"] == len(history.expected[point]["disk"])


def test_ratios_compare_what_is_shown_with_what_is_kept(history: History, stats: Any) -> None:
    document = stats()

    chunks = FANOUT + 29 + 30 + 30
    assert document["distinct_bytes"] == chunks * BLOCK
    assert (
        document["deduplication"]
        == round(document["data_bytes"] / document["distinct_bytes"], 3)
        > 1
    )
    assert document["stored_bytes"] + document["unused_bytes"] == document["pack_bytes"]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_drawn(history: History, tmp_path: Path, suffix: str, stats: Any) -> None:
    file = tmp_path / f"plot{suffix}"

    stats("--plot", str(file))

    head = file.read_bytes()[:200]
    assert b"<svg" in head or b"<?xml" in head or head.startswith(b"\x89PNG")


def test_a_plot_of_another_kind_is_refused(history: History, tmp_path: Path) -> None:
    assert main([f"--repo={history.path}", "stats", "--plot", str(tmp_path / "x.gif")]) == 2


def test_an_empty_repository_has_sizes_too(tmp_path: Path) -> None:
    empty = History(tmp_path / "empty")

    assert main([f"--repo={empty.path}", "stats"]) == 0
