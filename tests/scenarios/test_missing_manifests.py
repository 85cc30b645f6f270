"""Missing manifests: nothing that their points need is removed, and they can be written back."""

import ctypes
import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs import listing
from cbtfs.cli.main import main
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState, decode_manifest
from cbtfs.errors import ManifestsMissing, WrongDirectory
from cbtfs.prune import prune as prune_module
from cbtfs.repair import repair
from cbtfs.store import directories
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.update import Update
from cbtfs.store.folder import MARKER
from cbtfs.store.missing import give_up, missing_points, put_back
from cbtfs.store.repository import reading, writing
from tests.make_points import MEMORY
from tests.scenarios.repository_history import History, image
from tests.store.older_catalog import make_older


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    for first in range(1, 4):
        history.add(image(*range(first * 100, first * 100 + 20)))
    return history


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run_in(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Run]:
    def for_path(path: Path) -> Run:
        def run_one(*arguments: str) -> tuple[int, str]:
            capsys.readouterr()
            code = main(["--repo", str(path), *arguments])
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        return run_one

    return for_path


@pytest.fixture
def run(history: History, run_in: Callable[[Path], Run]) -> Run:
    return run_in(history.path)


def is_refused(result: tuple[int, str]) -> bool:
    """Return whether a command ended because a directory may not be the repository's."""
    return result[0] == 21 and "is not this repository's directory" in result[1]


RULES = ("forget", "--keep-last", "1")


def lose(history: History, *points: PointId) -> None:
    for point in points:
        (history.path / "points" / point).unlink()


def empty(folder: Path) -> None:
    """Make *folder* look as if its file system were not mounted."""
    folder.rename(folder.with_name(f"{folder.name} of another file system"))
    folder.mkdir()


def mount_again(folder: Path) -> None:
    folder.rmdir()
    folder.with_name(f"{folder.name} of another file system").rename(folder)


def remove_markers(path: Path) -> None:
    """Remove the markers, which old repositories lack."""
    for directory in directories.DIRECTORIES:
        (path / directory / MARKER).unlink()


def markers(path: Path) -> list[str]:
    return [d for d in directories.DIRECTORIES if (path / d / MARKER).exists()]


def all_files(path: Path) -> dict[str, bytes]:
    folders = (path / "points", path / "packs")
    return {str(p): p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}


WRITERS = [
    ("prune",),
    ("prune", "--dry-run"),
    RULES,
    ("forget", "vm@latest"),
    ("forget", "--missing", "0" * 32),
    ("tag", "vm@latest", "a"),
    ("protect", "vm@latest"),
    ("repair",),
    ("repair", "--dry-run"),
    ("repair", "--restore-manifests"),
]


@pytest.mark.parametrize("directory", directories.DIRECTORIES)
@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "from before markers"])
def test_nothing_is_written_while_a_directory_is_not_mounted(
    history: History, run: Run, directory: str, is_marked: bool
) -> None:
    if not is_marked:
        remove_markers(history.path)
    empty(history.path / directory)
    before = all_files(history.path)

    for command in WRITERS:
        code, text = run(*command)

        assert code == 21, command
        assert f"{directory}/ is not this repository's directory: is its file system mou" in text
        assert "--missing" not in text
    assert run("list")[0] == 0
    assert all_files(history.path) == before
    mount_again(history.path / directory)
    history.verify()


@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "from before markers"])
def test_a_catalog_is_not_rebuilt_from_directories_that_are_not_mounted(
    history: History, run: Run, is_marked: bool
) -> None:
    if not is_marked:
        remove_markers(history.path)
    shutil.rmtree(history.path / "catalog")
    empty(history.path / "points")

    for command in (*WRITERS, ("list",), ("check",)):
        assert run(*command)[0] == 21, command
    mount_again(history.path / "points")
    if not is_marked:
        assert run("repair", "--create-markers")[0] == 0
    history.verify()


def test_init_writes_both_markers(tmp_path: Path) -> None:
    assert markers(History(tmp_path / "repo").path) == ["packs", "points"]


def test_the_first_writer_marks_a_repository_from_before_markers(history: History) -> None:
    remove_markers(history.path)
    with reading(history.path):
        pass
    assert markers(history.path) == []

    history.add(image(1))

    assert markers(history.path) == ["packs", "points"]
    history.verify()


def test_an_empty_repository_from_before_markers_gets_them(tmp_path: Path) -> None:
    history = History(tmp_path / "repo")
    remove_markers(history.path)

    history.add(image(1))

    assert markers(history.path) == ["packs", "points"]


def test_one_missing_point_keeps_markers_from_being_made(history: History, run: Run) -> None:
    remove_markers(history.path)
    point = next(iter(history.expected))
    lose(history, point)

    assert run("prune")[0] == 21

    assert markers(history.path) == []
    assert run("repair", "--create-markers") == (
        0,
        "marker of packs/ written\nmarker of points/ written\n",
    )
    assert run("repair", "--restore-manifests")[0] == 0
    history.verify()


def test_a_point_forgotten_just_before_a_crash_does_not_keep_markers_from_being_made(
    history: History,
) -> None:
    remove_markers(history.path)
    point = next(iter(history.expected))
    manifest = history.path / "points" / point
    manifest.rename(manifest.with_name(f"{point}.forgotten"))
    del history.expected[point]

    history.prune()

    assert markers(history.path) == ["packs", "points"]
    history.verify()


def test_a_crash_between_the_markers_is_repaired(history: History) -> None:
    (history.path / "points" / MARKER).unlink()

    history.prune()

    assert markers(history.path) == ["packs", "points"]


@pytest.mark.parametrize("directory", directories.DIRECTORIES)
@pytest.mark.parametrize("is_pruned", [False, True], ids=["forgotten", "pruned"])
def test_a_catalog_that_knows_no_point_vouches_for_no_directory(
    history: History, run: Run, directory: str, is_pruned: bool
) -> None:
    history.forget(*[*history.expected])
    if is_pruned:
        history.prune()
    empty(history.path / directory)

    assert is_refused(run("prune"))

    assert not (history.path / directory / MARKER).exists()
    mount_again(history.path / directory)
    history.verify()


@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "from before markers"])
def test_a_commit_unknown_to_the_catalog_is_not_pruned_while_points_is_not_mounted(
    tmp_path: Path, run_in: Callable[[Path], Run], is_marked: bool
) -> None:
    """The first point was committed, but the program died before the catalog recorded it."""
    history = History(tmp_path / "first")
    history.add(image(1, 2, 3))
    forget_in_catalog(history.path)
    if not is_marked:
        remove_markers(history.path)
    empty(history.path / "points")
    before = all_files(history.path)

    assert is_refused(run_in(history.path)("prune"))

    assert all_files(history.path) == before
    mount_again(history.path / "points")
    if not is_marked:
        assert run_in(history.path)("repair", "--create-markers")[0] == 0
    history.verify()


def test_a_new_repository_is_not_written_to_while_one_directory_is_not_mounted(
    tmp_path: Path, run_in: Callable[[Path], Run]
) -> None:
    history = History(tmp_path / "new")
    empty(history.path / "points")

    assert is_refused(run_in(history.path)("prune"))


def forget_in_catalog(path: Path) -> None:
    """Reset the catalog to its state between the flush of the first packs and the commit."""
    catalog = Catalog(path / "catalog", is_writable=True)

    def forget(update: Update) -> None:
        for _, record in [*update.points()]:
            update.drop_point(decode_manifest(record.manifest))

    catalog.update(forget)
    catalog.close()


def test_a_catalog_of_an_older_schema_vouches_for_the_points_that_it_knows(
    history: History,
) -> None:
    remove_markers(history.path)
    make_older(history.path)

    history.prune()

    assert markers(history.path) == ["packs", "points"]
    history.verify()


@pytest.mark.parametrize("schema", [3, 5])
def test_a_catalog_of_another_schema_keeps_markers_from_being_made(
    history: History, run: Run, schema: int
) -> None:
    """It knows an absent point, or cannot be decoded at all."""
    remove_markers(history.path)
    make_older(history.path, schema)
    if schema == 3:
        lose(history, next(iter(history.expected)))
    before = all_files(history.path)

    for command in WRITERS:
        if command[0] != "forget":
            assert is_refused(run(*command)), command

    assert markers(history.path) == []
    assert all_files(history.path) == before


@pytest.mark.parametrize("is_repaired", [False, True], ids=["opened", "repaired"])
def test_the_rebuild_of_a_catalog_of_an_older_schema_keeps_missing_manifests(
    history: History, run: Run, is_repaired: bool
) -> None:
    first, second, _ = history.expected
    make_older(history.path)
    lose(history, first, second)

    if is_repaired:
        assert run("repair")[0] == 21
    assert run("prune")[0] == 21
    code, text = run("list", "--json")

    assert code == 0
    assert {p["id"] for p in json.loads(text)["points"] if p["state"] == ["missing"]} == {
        first,
        second,
    }
    assert run("repair", "--restore-manifests")[0] == 0
    history.verify()


def test_packs_without_a_marker_beside_points_with_one_are_refused(
    history: History, run: Run
) -> None:
    (history.path / "packs" / MARKER).unlink()

    code, text = run("prune")

    assert (code, "packs/ is not this" in text) == (21, True)


def foreign(marker: Path, tmp_path: Path) -> None:
    other = History(tmp_path / "other").path
    shutil.copy(other / marker.parent.name / marker.name, marker)


def of_packs(marker: Path, tmp_path: Path) -> None:
    shutil.copy(marker.parents[1] / "packs" / marker.name, marker)


def cut(marker: Path, tmp_path: Path) -> None:
    marker.write_bytes(marker.read_bytes()[:-10])


def truncate(marker: Path, tmp_path: Path) -> None:
    marker.write_bytes(b"")


def link(marker: Path, tmp_path: Path) -> None:
    marker.rename(tmp_path / "marker")
    marker.symlink_to(tmp_path / "marker")


@pytest.mark.parametrize("spoil", [foreign, of_packs, cut, truncate, link])
def test_a_marker_that_is_not_the_directorys_own_stops_every_writer(
    history: History, run: Run, spoil: Any, tmp_path: Path
) -> None:
    spoil(history.path / "points" / MARKER, tmp_path)
    before = all_files(history.path)

    for command in WRITERS:
        assert run(*command)[0] == 21, command

    assert run("list")[0] == 0
    assert all_files(history.path) == before
    code, text = run("check", "--json")
    assert code == 21
    assert "directory" in [
        problem["kind"] for problem in json.loads(text.partition("\n")[0])["problems"]
    ]


@pytest.mark.parametrize("spoil", [cut, truncate])
def test_a_damaged_marker_is_written_again_on_request(
    history: History, run: Run, spoil: Any, tmp_path: Path
) -> None:
    spoil(history.path / "points" / MARKER, tmp_path)

    code, text = run("repair", "--create-markers")

    assert (code, text) == (0, "marker of points/ written\n")
    history.prune()
    history.verify()


@pytest.mark.parametrize("spoil", [foreign, of_packs])
def test_a_foreign_marker_is_not_overwritten(
    history: History, run: Run, spoil: Any, tmp_path: Path
) -> None:
    marker = history.path / "points" / MARKER
    spoil(marker, tmp_path)
    before = marker.read_bytes()

    assert run("repair", "--create-markers")[0] == 21

    assert marker.read_bytes() == before


@pytest.mark.parametrize("command", [("prune",), ("prune", "--dry-run"), RULES])
def test_nothing_is_removed_while_a_manifest_is_missing(
    history: History, run: Run, command: tuple[str, ...]
) -> None:
    first, second, _ = history.expected
    lose(history, first, second)
    before = all_files(history.path)

    code, text = run(*command)

    assert code == 21
    assert first in text
    assert second in text
    assert "--missing" not in text
    assert all_files(history.path) == before


def test_rules_for_one_vm_are_refused_while_another_vm_misses_a_manifest(
    history: History, run: Run
) -> None:
    history.add(image(1), vm="other")
    lose(history, next(iter(history.expected)))

    assert run("forget", "other", "--keep-last", "1")[0] == 21


def test_a_point_is_forgotten_by_name_while_another_is_missing_but_not_pruned(
    history: History, run: Run
) -> None:
    first, second, third = history.expected
    lose(history, first)

    assert run("forget", second, "--prune")[0] == 21
    assert (history.path / "points" / second).exists()
    assert run("forget", second)[0] == 0
    assert not (history.path / "points" / second).exists()
    assert run("forget", third, first)[0] == 21
    assert (history.path / "points" / third).exists()


def test_a_missing_point_is_listed_as_such_and_its_vm_stays(history: History, run: Run) -> None:
    lose(history, *history.expected)

    code, text = run("list", "--json")

    assert code == 0
    assert [point["state"] for point in json.loads(text)["points"]] == [["missing"]] * 3


def test_many_missing_points_are_counted_and_the_first_are_named(
    history: History, run: Run
) -> None:
    points = sorted([*history.expected, *(history.add(image(7)) for _ in range(7))])
    lose(history, *points)

    code, text = run("prune")

    assert code == 21
    assert "manifests of 10 restore points" in text
    assert [point in text for point in points] == [True] * 8 + [False] * 2
    assert "and 2 more" in text
    assert text.count("\n") == 1


def test_a_check_names_every_missing_point_and_the_repair_that_writes_it_back(
    history: History, run: Run
) -> None:
    points = list(history.expected)[:2]
    lose(history, *points)

    code, text = run("check")

    assert code == 20
    for point in points:
        assert re.search(f"the manifest of point {point} .*is missing: restore it", text)
    assert "repair --restore-manifests" in text


def test_a_plain_repair_names_missing_points_and_writes_nothing_back(
    history: History, run: Run
) -> None:
    point = next(iter(history.expected))
    lose(history, point)

    code, text = run("repair")

    assert code == 21
    assert f"manifest missing: {point} vm " in text
    assert "can be restored" in text
    assert not (history.path / "points" / point).exists()
    assert run("repair", "--restore-manifests")[0] == 0
    history.verify()


def test_manifests_are_written_back_byte_for_byte_with_their_states(
    history: History, run: Run
) -> None:
    first, second, third = history.expected
    with writing(history.path) as repository:
        repository.put_states([PointState(first, is_protected=True, tags=("a",))])
    before = all_files(history.path)
    lose(history, first, second)
    (history.path / "points" / f"{first}.state").unlink()

    code, text = run("repair", "--restore-manifests")

    assert code == 0
    for point in (first, second):
        assert f"manifest missing: {point} vm " in text
    assert third not in text
    assert text.index("will be restored") < text.index("2 manifests restored")
    assert all_files(history.path) == before
    history.verify()


def test_a_dry_run_of_restoring_manifests_lists_them_alone(history: History, run: Run) -> None:
    point = next(iter(history.expected))
    lose(history, point)
    before = all_files(history.path)

    code, text = run("repair", "--restore-manifests", "--dry-run", "--json")

    assert code == 0
    document = json.loads(text)
    assert (document["missing"], document["restored"]) == ([point], [point])
    assert all_files(history.path) == before


def test_a_manifest_whose_block_map_does_not_resolve_is_not_written_back(
    history: History, run: Run
) -> None:
    first, second, _ = history.expected
    (pack,) = history.packs_of(first)
    lose(history, first, second)
    pack.unlink()

    code, text = run("repair", "--restore-manifests")

    assert code == 21
    assert f"{first} vm" in text
    assert "cannot be restored" in text
    assert not (history.path / "points" / first).exists()
    assert (history.path / "points" / second).exists()


@pytest.mark.parametrize("damage", ["rebuilt", "order lost"])
def test_a_rebuilt_catalog_keeps_the_manifests_of_missing_points(
    history: History, damage: str
) -> None:
    point = next(iter(history.expected))
    lose(history, point)
    if damage == "rebuilt":
        repair(history.path)
    else:
        _lose_an_order_entry(history.path)

    with writing(history.path) as repository:
        assert repository.findings.missing == {point}
        with pytest.raises(ManifestsMissing):
            history_prune(repository)
        put_back(repository, [point])
    history.verify()


def test_the_last_copy_of_a_damaged_manifest_outlives_a_rebuild(history: History, run: Run) -> None:
    point = next(iter(history.expected))
    file = history.path / "points" / point
    file.write_bytes(file.read_bytes()[:-20])

    assert run("repair")[0] == 21
    assert point[:12] in run("list")[1]
    file.unlink()

    assert run("prune")[0] == 21
    assert run("repair", "--restore-manifests")[0] == 0
    history.verify()


def test_a_manifest_that_is_lost_while_a_prune_begins_stops_it(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = next(iter(history.expected))
    before = all_files(history.path)
    monkeypatch.setattr(prune_module, "_allow_many_files", lambda: lose(history, point))

    with pytest.raises(ManifestsMissing, match=point):
        history.prune()

    del before[str(history.path / "points" / point)]
    assert all_files(history.path) == before


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crash_in_an_exchange_of_catalogs_loses_no_copy_of_a_manifest(
    history: History, run: Run, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """If a file system cannot exchange two names, there is a moment without a catalog."""
    point = next(iter(history.expected))
    lose(history, point)
    monkeypatch.setattr(ctypes, "CDLL", CannotExchange)
    rename, calls = os.rename, iter(range(1, 100))

    def crash(source: Path, target: Path) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as crashing:
        crashing.setattr(os, "rename", crash)
        assert run("repair")[0] == 130

    for _ in range(2):
        assert run("repair")[0] == 21
    assert run("repair", "--restore-manifests")[0] == 0
    history.verify()
    assert not (history.path / "catalog.old").exists()


class CannotExchange:
    """A C library on a file system without RENAME_EXCHANGE."""

    def __init__(self, *_: object, **__: object) -> None:
        self.renameat2 = self.refuse

    @staticmethod
    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1


def history_prune(repository: Any) -> None:
    from cbtfs.prune.prune import prune
    from cbtfs.prune.select import PruneLimits

    prune(repository, PruneLimits())


def _lose_an_order_entry(path: Path) -> None:
    import lmdb

    lost = lmdb.open(str(path / "catalog"), max_dbs=8, lib_version=0)
    with lost, lost.begin(write=True) as transaction:
        cursor = transaction.cursor(lost.open_db(b"order", txn=transaction))
        assert cursor.last()
        cursor.delete()


def test_points_that_are_given_up_are_forgotten_and_pruned(history: History, run: Run) -> None:
    first, second, third = history.expected
    lose(history, first, second)
    before = history.pack_bytes()

    assert run("forget", "--missing", first)[0] == 0
    assert run("prune")[0] == 21
    assert history.pack_bytes() == before
    assert run("forget", "--missing", second, "--prune")[0] == 0

    assert history.pack_bytes() < before / 2
    for point in (first, second):
        del history.expected[point]
    history.verify()
    assert third in history.expected


def test_only_full_ids_of_missing_points_are_accepted(history: History, run: Run) -> None:
    first, second, _ = history.expected
    lose(history, first)

    for name in (first[:12], second, "vm@latest", "vm"):
        assert run("forget", "--missing", name)[0] == 2, name
    assert run("forget", "--missing")[0] == 2
    assert run("forget", "--missing", first, "--keep-last", "1")[0] == 2
    assert run("forget", "--missing", first, "--dry-run")[0] == 0
    with reading(history.path) as repository:
        assert missing_points(repository) == {first}


def test_a_protected_point_is_not_given_up(history: History, run: Run) -> None:
    point = next(iter(history.expected))
    assert run("protect", point)[0] == 0
    lose(history, point)

    assert run("forget", "--missing", point)[0] == 1

    assert run("protect", "--off", point)[0] == 0
    assert run("forget", "--missing", point)[0] == 0


def test_a_crash_after_giving_up_is_repaired(history: History) -> None:
    point = next(iter(history.expected))
    lose(history, point)
    with writing(history.path) as repository:
        with repository.catalog.view() as view:
            record = view.point(point)
        assert record is not None
        repository.points.put_forgotten(point, record.manifest)
    del history.expected[point]

    history.prune()

    history.verify()


def test_a_reader_notices_missing_manifests_and_changes_nothing_else(history: History) -> None:
    point = next(iter(history.expected))
    lose(history, point)
    before = all_files(history.path)

    with reading(history.path) as repository, repository.catalog.view() as view:
        missing = [point.manifest.point for point in listing.points(view) if point.is_missing]

    assert missing == [point]
    assert all_files(history.path) == before


def test_old_copies_of_points_that_are_put_back_cost_no_pack(
    history: History, tmp_path: Path
) -> None:
    shutil.copytree(history.path / "points", tmp_path / "old")
    newest = history.add(image(77, 78))
    shutil.rmtree(history.path / "points")
    shutil.copytree(tmp_path / "old", history.path / "points")

    with pytest.raises(ManifestsMissing, match=newest):
        history.prune()

    repair(history.path, restores_manifests=True)
    history.verify()


Step = tuple[str, int]
STEPS = st.tuples(
    st.sampled_from(
        ["add", "add", "forget", "prune", "lose", "lose", "return", "restore", "give up", "repair",
         "unmount"]
    ),
    st.integers(0, 1 << 20),
)  # fmt: skip


class Losing:
    """A history in which manifests are lost and restored, with the expected content."""

    def __init__(self, path: Path) -> None:
        self.history = History(path)
        self.lost: dict[PointId, bytes] = {}
        """Missing points with their manifests."""

    @property
    def present(self) -> list[PointId]:
        return [point for point in self.history.expected if point not in self.lost]

    def step(self, name: str, number: int) -> None:
        history, path = self.history, self.history.path
        rnd = random.Random(number)
        if name == "add":
            history.add(image(*(rnd.randrange(40) for _ in range(6))))
        elif name == "forget" and self.present:
            history.forget(self.present[number % len(self.present)])
        elif name == "prune":
            self.prune()
        elif name == "lose" and self.present:
            point = self.present[number % len(self.present)]
            file = path / "points" / point
            self.lost[point] = file.read_bytes()
            file.unlink()
        elif name == "return" and self.lost:
            point = rnd.choice(list(self.lost))
            (path / "points" / point).write_bytes(self.lost.pop(point))
        elif name == "restore":
            done = repair(path, restores_manifests=True)
            assert (set(done.restored), done.missing) == (set(self.lost), ())
            self.lost.clear()
        elif name == "give up" and self.lost:
            point = rnd.choice(list(self.lost))
            with writing(path) as repository:
                give_up(repository, [point])
            del self.lost[point], history.expected[point]
        elif name == "repair":
            assert set(repair(path).missing) == set(self.lost)
        elif name == "unmount":
            self.unmount(rnd.choice(directories.DIRECTORIES))

    def prune(self) -> None:
        before = all_files(self.history.path)
        if not self.lost:
            self.history.prune()
            return
        with pytest.raises(ManifestsMissing):
            self.history.prune()
        assert all_files(self.history.path).keys() == before.keys()

    def unmount(self, directory: str) -> None:
        folder = self.history.path / directory
        empty(folder)
        with pytest.raises(WrongDirectory):
            self.history.prune()
        mount_again(folder)

    def verify(self) -> None:
        """Assert that all points have their expected content, and that missing ones are known."""
        self.history.verify()
        with reading(self.history.path) as repository:
            assert missing_points(repository) == set(self.lost)
            with repository.catalog.view() as view:
                assert view.missing == set(self.lost)


@settings(max_examples=8, deadline=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=10))
def test_no_history_of_losses_costs_a_byte(
    tmp_path_factory: pytest.TempPathFactory, steps: Iterable[Step]
) -> None:
    base = MEMORY if MEMORY.is_dir() else tmp_path_factory.mktemp("losing")
    folder = Path(_fresh(base))
    try:
        losing = Losing(folder / "repo")
        losing.step("add", 1)
        for name, number in steps:
            losing.step(name, number)
            losing.verify()
        losing.step("restore", 0)
        losing.step("prune", 0)
        losing.verify()
    finally:
        shutil.rmtree(folder)


def _fresh(base: Path) -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="cbtfs-losing-", dir=base)
