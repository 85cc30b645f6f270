"""Forgotten points come back completely, or the repository does not change."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.ids import PointId
from cbtfs.store.repository import reading, writing
from tests.scenarios.repository_history import History, image


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    for first in (100, 200, 300):
        history.add(image(*range(first, first + 20)))
    return history


@pytest.fixture
def run(history: History, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with --json; return its exit code and document."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([f"--repo={history.path}", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def forgotten_file(history: History, point: PointId) -> Path:
    return history.path / "points" / f"{point}.forgotten"


@pytest.mark.parametrize("form", ["id", "prefix", "name", "time", "vm and id"])
def test_a_forgotten_point_comes_back_by_each_exact_form(
    history: History, run: Any, form: str
) -> None:
    point = list(history.expected)[1]
    manifest = history.manifests[point]
    run("tag", point, "kept")
    run("forget", point)
    name = {
        "id": point,
        "prefix": point[:8],
        "name": f"vm@{manifest.name}",
        "time": f"vm@{manifest.time}",
        "vm and id": f"vm@{point[:8]}",
    }[form]

    code, document = run("unforget", name)

    assert (code, [item["id"] for item in document["points"]]) == (0, [point])
    assert not forgotten_file(history, point).exists()
    history.verify()
    assert run("show", point)[1]["tags"] == ["kept"]


def test_the_points_of_a_vm_without_other_points_come_back(history: History, run: Any) -> None:
    points = list(history.expected)
    run("forget", *points)

    code, document = run("unforget", *(f"vm@{history.manifests[p].name}" for p in points))

    assert (code, len(document["points"])) == (0, 3)
    history.verify()


@pytest.mark.parametrize("seed", range(6))
def test_random_forgets_and_unforgets_keep_every_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    chance = random.Random(seed)
    history = History(tmp_path / "repo")
    forgotten: dict[PointId, dict[str, bytes]] = {}
    for step in range(14):
        kind = chance.choice(["add", "add", "forget", "unforget", "prune"])
        if kind == "add":
            history.add(image(*(chance.randrange(1, 30) for _ in range(10))))
        elif kind == "forget" and history.expected:
            point = chance.choice(list(history.expected))
            forgotten[point] = history.expected[point]
            history.forget(point)
        elif kind == "unforget" and forgotten:
            point = chance.choice(list(forgotten))
            assert main(["--repo", str(history.path), "unforget", point]) == 0
            history.expected[point] = forgotten.pop(point)
        elif kind == "prune" and step % 2:
            history.prune()
            for point in forgotten:
                # A prune keeps the manifest of the newest point of a disk for its change ID.
                assert main(["--repo", str(history.path), "unforget", point]) in (13, 21)
            forgotten.clear()
        history.verify()
    capsys.readouterr()


def test_a_point_whose_objects_are_gone_is_21_and_nothing_changes(
    history: History, run: Any
) -> None:
    first, second, _ = list(history.expected)
    kept = {first: forgotten_file(history, first), second: forgotten_file(history, second)}
    history.forget(first, second)
    manifests = {point: path.read_bytes() for point, path in kept.items()}
    history.prune()
    kept[first].write_bytes(manifests[first])  # as after a prune that was killed
    names = sorted(os.listdir(history.path / "points"))

    code, document = run("unforget", first)

    assert (code, document["error"]["code"]) == (21, 21)
    assert "block map does not resolve" in document["error"]["message"]
    assert sorted(os.listdir(history.path / "points")) == names
    history.verify()


def test_objects_that_only_the_catalog_lost_are_found_in_packs(history: History, run: Any) -> None:
    """A prune that postpones packs drops the objects from the catalog and keeps the packs."""
    first = next(iter(history.expected))
    content = history.expected[first]
    packs = {p: p.read_bytes() for p in (history.path / "packs").glob("*/*")}
    history.forget(first)
    manifest = forgotten_file(history, first).read_bytes()
    history.prune()
    for path, data in packs.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    forgotten_file(history, first).write_bytes(manifest)

    code, _ = run("unforget", first)

    assert code == 0
    history.expected[first] = content
    history.verify()


def test_several_points_come_back_together_or_not_at_all(history: History, run: Any) -> None:
    first, second, _ = list(history.expected)
    run("forget", first, second)

    code, document = run("unforget", first, "vm@2001-01-01T00-00-00Z")

    assert code == document["error"]["code"] == 13
    assert forgotten_file(history, first).exists()
    assert forgotten_file(history, second).exists()
    spelled = {f"vm@{history.manifests[p].name}" for p in (first, second)}
    assert set(document["error"]["candidates"]) == spelled


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("vm@latest", 2, "not the exact name"),
        ("vm@-2d", 2, "not the exact name"),
        ("nobody@2026-01-01T00-00-00Z", 13, "the forgotten points are vm@"),
        ("", 13, "the forgotten points are vm@"),
        ("vm", 13, "is not forgotten"),
    ],
)
def test_a_name_that_is_not_exact_is_refused(
    history: History, run: Any, name: str, code: int, words: str
) -> None:
    run("forget", next(iter(history.expected)))

    status, document = run("unforget", name)

    assert status == code
    assert words in document["error"]["message"]


def test_a_corrupt_forgotten_manifest_is_reported(history: History, run: Any) -> None:
    point = next(iter(history.expected))
    run("forget", point)
    forgotten_file(history, point).write_bytes(b"{}")

    code, document = run("unforget", point)

    assert code == 13
    assert "a forgotten manifest is corrupt" in document["error"]["message"]


def test_a_name_that_another_point_has_now_is_refused(history: History, run: Any) -> None:
    newest = list(history.expected)[-1]
    run("forget", newest)
    other = history.add(image(1))
    assert history.manifests[other].name == history.manifests[newest].name

    code, document = run("unforget", newest)

    assert (code, document["error"]["candidates"]) == (2, [other])
    assert forgotten_file(history, newest).exists()


def test_a_point_that_was_forgotten_during_an_audit_comes_back_suspect(
    history: History, run: Any
) -> None:
    """An audit marks retained points only: those since the last full of the disk."""
    base = image(*range(1, 21))
    full = history.add(base)
    forgotten = history.add(base, changed=[])
    other = history.add(base, changed=[])
    disk = history.manifests[other].disks[0]
    run("forget", full, forgotten)
    with writing(history.path) as repository:
        state = repository.points.load_state(other)[0]
        repository.put_states([state.suspecting(disk.id, "change tracking missed 3 blocks")])

    assert run("unforget", full, forgotten)[0] == 0

    assert run("show", forgotten)[1]["suspect"] == "change tracking missed 3 blocks"
    assert run("show", full)[1]["suspect"] is None


def test_a_killed_process_leaves_the_point_back_or_forgotten(
    history: History, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the rename and the catalog; the next command catches up."""
    first = next(iter(history.expected))
    content = history.expected[first]
    history.forget(first)
    with monkeypatch.context() as patch:
        patch.setattr("cbtfs.unforget.settle_points", lambda *_: 1 / 0)
        assert main(["--repo", str(history.path), "unforget", first]) == 70
    capsys.readouterr()

    history.expected[first] = content
    history.verify()
    with reading(history.path) as repository:
        assert first in repository.points.ids()
