"""Repair restores everything in packs and manifests, in any state of the catalog."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.manifest import PointState
from cbtfs.errors import DataCorrupt
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.repair import repair
from cbtfs.store import catalog_opening
from cbtfs.store.pack import Pack
from cbtfs.store.repository import reading, writing
from tests.scenarios.repository_history import History, image


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    for first in range(1, 4):
        history.add(image(*range(first * 10, first * 10 + 70)))
    return history


def remove(catalog: Path) -> None:
    shutil.rmtree(catalog)


def empty(catalog: Path) -> None:
    (catalog / "data.mdb").write_bytes(b"")


def cut(catalog: Path) -> None:
    data = (catalog / "data.mdb").read_bytes()
    (catalog / "data.mdb").write_bytes(data[: len(data) // 2])


def rot(catalog: Path) -> None:
    data = bytearray((catalog / "data.mdb").read_bytes())
    rnd = random.Random(7)
    for _ in range(200):
        data[rnd.randrange(8192, len(data))] = rnd.randrange(256)
    (catalog / "data.mdb").write_bytes(data)


def keep(catalog: Path) -> None:
    """Leave the catalog intact: repair rebuilds it, too."""


@pytest.mark.parametrize("damage", [remove, empty, cut, rot, keep])
def test_a_lost_catalog_costs_nothing_but_time(history: History, damage: Any) -> None:
    damage(history.path / "catalog")

    done = repair(history.path)

    assert (done.points, done.nodes_left_out, done.problems) == (3, 0, ())
    history.verify()
    history.add(image(1, 2))
    history.verify()


def test_tags_protection_and_marks_survive(history: History) -> None:
    point = next(iter(history.expected))
    state = PointState(
        point,
        is_protected=True,
        tags=("a",),
        suspect="a reason",
        verified="2026-01-01T00:00:00Z",
    )
    with writing(history.path) as repository:
        repository.put_states([state])
    shutil.rmtree(history.path / "catalog")

    repair(history.path)

    with reading(history.path) as repository:
        assert repository.points.load_state(point)[0] == state
        with repository.catalog.view() as view:
            record = view.point(point)
        assert record is not None
        assert b'"a reason"' in record.state


def files(path: Path) -> dict[Path, bytes]:
    """Return all files except LMDB's table of readers, which every reader changes."""
    files = (p for p in path.rglob("*") if p.is_file() and p.name != "lock.mdb")
    return {p: p.read_bytes() for p in files}


def test_a_dry_run_changes_nothing(history: History) -> None:
    (history.path / "packs" / "ab").mkdir(exist_ok=True)
    (history.path / "packs" / "ab" / ("ab" * 16 + ".open")).write_bytes(b"half")
    before = files(history.path)

    done = repair(history.path, is_dry_run=True)

    assert (done.leftovers, done.points, done.catalog) == (1, 3, None)
    assert files(history.path) == before


def test_an_interrupted_repair_leaves_the_old_catalog(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalog_opening, "exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            repair(history.path)

    history.verify()
    repair(history.path)
    history.verify()
    assert sorted(file.name for file in history.path.iterdir()) == [
        "catalog",
        "locks",
        "packs",
        "points",
        "repository.json",
        "reserve",
    ]


def test_a_reader_switches_to_the_new_catalog(history: History) -> None:
    point, expected = next(iter(history.expected.items()))
    with reading(history.path) as repository:
        reader = Reader(repository, cache_bytes=0)
        disk = reader.disk(history.manifests[point].disks[0])
        assert bytes(disk.read(0, disk.size)) == expected["disk"]
        command = [sys.executable, "-m", "cbtfs", f"--repo={history.path}", "repair"]
        subprocess.run(command, check=True, capture_output=True)

        assert reader.refresh()
        assert bytes(disk.read(0, disk.size)) == expected["disk"]


def test_leftovers_of_a_crash_are_removed(history: History) -> None:
    pack = next((history.path / "packs").glob("*/*"))
    left = pack.with_name("0" * 32 + ".open")
    left.write_bytes(b"half a pack")

    assert repair(history.path).leftovers == 1
    assert not left.exists()


def test_a_missing_pack_is_reported(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    with reading(history.path) as repository, repository.catalog.view() as view:
        packs = [record.id for record in view.packs().values()]
    for pack in packs[-2:]:
        (history.path / "packs" / pack[:2] / pack).unlink()

    code = main([f"--repo={history.path}", "repair", "--json"])

    assert code == 20
    assert list(history.expected)[-1] in json.loads(capsys.readouterr().out)["damaged"]


def test_a_pack_that_cannot_be_opened_just_now_ends_a_repair_and_harms_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the campaign "calls", seed 1: the pack was left out, and its points damaged."""

    def fail(self: Pack, *_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Pack, "__init__", fail)
        with pytest.raises(DataCorrupt, match="the catalog is unchanged"):
            repair(history.path)

    with reading(history.path) as repository, repository.catalog.view() as view:
        assert [point.marks for point in points(view)] == [[], [], []]
    history.verify()
