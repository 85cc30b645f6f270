"""The commands forget, protect and tag."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.errors import StoreFailed
from cbtfs.store.backend import local
from cbtfs.store.repository import reading, writing
from tests.scenarios.repository_history import History, image


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


Run = tuple[int, dict[str, Any]]


@pytest.fixture
def run(history: History, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with --json; return its exit code and document."""

    def run(*arguments: str) -> Run:
        code = main([f"--repo={history.path}", *arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    return run


def test_a_named_point_is_forgotten_and_the_others_stay(history: History, run: Any) -> None:
    first, second = history.add(image(1)), history.add(image(2))

    code, document = run("forget", first)

    assert code == 0
    assert document["forgotten"] == [first]
    del history.expected[first]
    history.verify()
    assert (history.path / "points" / f"{first}.forgotten").exists()
    assert run("forget", second[:12])[1]["forgotten"] == [second]


def test_a_policy_forgets_points_that_no_rule_keeps_and_names_the_rules(
    history: History, run: Any
) -> None:
    ids = [history.add(image(n)) for n in range(1, 5)]
    run("tag", ids[0], "release")

    code, document = run("forget", "vm", "--keep-last", "2", "--keep-tag", "release")

    assert code == 0
    assert document["forgotten"] == [ids[1]]
    reasons = {item["id"]: item["reasons"] for item in document["points"]}
    assert reasons == {
        ids[3]: ["last 1 of 2"],
        ids[2]: ["last 2 of 2"],
        ids[1]: [],
        ids[0]: ["tag release"],
    }


def test_a_dry_run_forgets_nothing(history: History, run: Any) -> None:
    ids = [history.add(image(n)) for n in range(1, 4)]

    code, document = run("forget", "--keep-last", "1", "--dry-run", "--prune")

    assert code == 0
    assert set(document["forgotten"]) == set(ids[:2])
    assert document["prune"]["freed_bytes"] > 0
    history.verify()


def test_forget_with_prune_reclaims_space(history: History, run: Any) -> None:
    history.add(image(*range(1, 40)))
    kept = history.add(image(99))
    before = history.pack_bytes()

    code, document = run("forget", "--keep-last", "1", "--prune")

    assert code == 0
    assert before - history.pack_bytes() == document["prune"]["freed_bytes"] > 0
    history.expected = {kept: history.expected[kept]}
    history.verify()


def test_a_protected_point_stays_until_it_is_protected_no_longer(
    history: History, run: Any
) -> None:
    point = history.add(image(1))
    history.add(image(2))
    assert run("protect", point)[1]["is_protected"]

    assert run("forget", point)[0] == 1
    assert run("forget", "--keep-last", "1")[1]["forgotten"] == []

    assert not run("protect", "--off", point)[1]["is_protected"]
    assert run("forget", point)[1]["forgotten"] == [point]


def test_a_point_without_its_state_is_not_forgotten_by_mistake(history: History, run: Any) -> None:
    point = history.add(image(1))
    history.add(image(2))
    (history.path / "points" / f"{point}.state").unlink()

    assert run("forget", "--keep-last", "1")[1]["forgotten"] == []


def test_tags_come_and_go(history: History, run: Any) -> None:
    point = history.add(image(1))

    assert run("tag", point, "a", "b")[1]["tags"] == ["a", "b"]
    assert run("tag", point, "c", "--remove", "a")[1]["tags"] == ["b", "c"]
    with reading(history.path) as repository:
        assert repository.points.load_state(point)[0].tags == ("b", "c")


def test_a_point_with_an_unreadable_manifest_is_forgotten_by_its_complete_id(
    history: History, run: Any
) -> None:
    point = history.add(image(1))
    manifest = history.path / "points" / point
    manifest.write_bytes(b"nothing")
    for file in (history.path / "catalog").iterdir():
        file.unlink()

    assert run("forget", point[:12])[0] == 13
    assert run("forget", point)[0] == 0
    assert run("prune")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["forget"], 2),
        (["forget", "vm"], 2),
        (["forget", "vm@2000-01-01T00-00-00Z"], 13),
        (["forget", "vm@2000-01-01T00:00:00Z"], 13),
        (["forget", "vm@latest"], 2),
        (["forget", "vm@latest~0"], 2),
        (["forget", "vm@good"], 2),
        (["forget", "vm@-30d"], 2),
        (["forget", "vm@-0min"], 2),
        (["forget", "vm@2099-01-01"], 2),
        (["forget", "vm@2099-01-01T00:00"], 2),
        (["forget", "vm@2099-01-01T00:00Z"], 2),
        (["forget", "vm@2099-01-01T00:00:00"], 2),
        (["forget", "v*@latest"], 13),
        (["forget", "nobody", "--keep-last", "1"], 13),
        (["forget", "--keep-last", "1", "--time-zone", "Mars/Olympus"], 2),
        (["forget", "--keep-within", "soon"], 2),
        (["forget", "--keep-last", "-1"], 2),
        (["prune", "--max-unused", "much"], 2),
        (["prune", "--max-repack", "much"], 2),
        (["tag", "vm@latest", ""], 2),
    ],
)
def test_invalid_options_are_refused(
    history: History, run: Any, arguments: list[str], code: int
) -> None:
    point = history.add(image(1))

    assert run(*arguments)[0] == code
    assert list(history.expected) == [point]
    history.verify()


def test_a_process_that_dies_between_rename_and_catalog_has_forgotten(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = history.add(image(1))
    history.add(image(2))

    def fail(path: Path) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(local, "sync_folder", fail)
        with pytest.raises(StoreFailed, match="Input/output"), writing(history.path) as repository:
            repository.forget([point])

    del history.expected[point]
    history.verify()


def test_the_minimum_age_keeps_young_points(history: History, run: Any) -> None:
    for n in range(1, 4):
        history.add(image(n))
    years = timedelta(days=366 * 50)

    held = run("forget", "--keep-last", "1", "--min-age", f"{years.days}d")[1]

    assert held["forgotten"] == []
    assert "younger than the minimum age" in held["points"][-1]["reasons"]
    history.verify()


@pytest.mark.parametrize("option", ["--keep-within", "--min-age"])
def test_the_unit_m_of_retention_options_is_refused(
    option: str, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([f"--repo={history.path}", "forget", "--keep-last", "1", option, "6m"])

    assert code == 2
    assert "use 'mo' for months, e.g. 6mo" in capsys.readouterr().err
