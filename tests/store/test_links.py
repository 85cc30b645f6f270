"""Commands follow no symbolic link inside a repository; the repository may be one itself."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.cli.main import main
from cbtfs.core.ids import PackId
from cbtfs.errors import CbtfsError, DataCorrupt
from cbtfs.store.folder import MARKER, Folder
from cbtfs.store.runs import RunFacts, RunFolder
from tests.scenarios.repository_history import History, image
from tests.store.folders import packs_at, points_at

RUN = RunFacts("ab" * 16, "server", "vm", "cbtfs-snapshot")
DIRECTORIES = ["points", "packs", "locks", "locks/runs", "catalog", "packs/??"]
ASIDE = ["catalog.new", "catalog.damaged"]
FILES = ["quarantine", "verified", "reserve", "locks/writer", "packs/marker.json"]
COMMANDS = [
    ("check", "--read-data"),
    ("check", "--read-data-subset", "1/1"),
    ("forget", "vm@latest"),
    ("forget", "--keep-last", "1", "--prune"),
    ("prune", "--max-unused", "0%"),
    ("repair",),
    ("repair", "--restore-manifests"),
    ("repair", "--create-markers"),
    ("unlock",),
    ("tag", "vm@latest", "a"),
    ("list",),
]


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    for first in (100, 200, 300):
        history.add(image(*range(first, first + 5)))
    history.forget(next(iter(history.expected)))
    with RunFolder(history.path).start(RUN):
        pass
    return history


def run_all(history: History) -> None:
    """Run every command that writes; each succeeds or is refused with one line."""
    for command in COMMANDS:
        main(["--repo", str(history.path), *command])
    runs = RunFolder(history.path)
    for use in (
        lambda: runs.dead("server", "vm"),
        lambda: runs.forget(RUN),
        lambda: runs.save_progress(RUN.run, b"progress"),
        lambda: runs.start(RUN).close(),
    ):
        try:
            use()
        except CbtfsError:
            continue


def content(path: Path) -> dict[str, bytes | None]:
    """Return all entries at or below *path*."""
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(entry): entry.read_bytes() if entry.is_file() else None for entry in entries}


@pytest.mark.parametrize("name", [*DIRECTORIES, *ASIDE])
def test_a_link_instead_of_a_directory_is_not_followed(
    history: History, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    (place,) = [*history.path.glob(name)][:1] or [history.path / name]
    if place.exists():
        shutil.move(place, outside)
    else:
        shutil.copytree(history.path / "catalog", outside)
    (outside / "precious").write_bytes(b"precious")
    (outside / f"{'0' * 32}.tmp").write_bytes(b"looks like a leftover")
    (outside / f"{'0' * 32}.open").write_bytes(b"looks like a leftover")
    place.symlink_to(outside)
    before = content(outside)
    if name == "catalog.damaged":
        os.truncate(history.path / "catalog" / "data.mdb", 5000)

    run_all(history)

    assert content(outside) == before


@pytest.mark.parametrize("name", FILES)
def test_a_link_instead_of_a_file_is_not_followed(
    history: History, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    place = history.path / name
    if place.exists():
        shutil.move(place, outside)
    else:
        outside.write_bytes(b"precious")
    place.symlink_to(outside)
    before = content(outside)

    run_all(history)

    assert content(outside) == before


@pytest.mark.parametrize("name", ["points", "packs"])
def test_a_linked_directory_is_refused_in_one_line(
    history: History, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(history.path / name, tmp_path / "outside")
    (history.path / name).symlink_to(tmp_path / "outside")

    for command in (("prune",), ("list",), ("check",), ("repair", "--dry-run")):
        code = main(["--repo", str(history.path), *command])
        text = capsys.readouterr().err
        assert code == 21, command
        assert f"{history.path / name} is a symbolic link" in text
        assert text.count("\n") == 1


def test_the_repository_itself_may_be_a_link(history: History, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(history.path)

    for command in (("prune",), ("repair",), ("check", "--read-data"), ("list",)):
        assert main(["--repo", str(tmp_path / "link"), *command]) == 0, command

    history.verify()


def swap(path: Path, outside: Path) -> None:
    """Replace a directory by a link, like an attacker between two steps of a command."""
    path.rename(path.with_name("moved"))
    path.symlink_to(outside)


def test_a_later_change_of_the_path_has_no_effect(history: History, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{'0' * 32}.tmp").write_bytes(b"precious")
    points, packs = points_at(history.path / "points"), packs_at(history.path / "packs")
    known, stored = points.ids(), packs.ids()
    swap(history.path / "points", outside)
    (history.path / "moved").rename(tmp_path / "points")
    swap(history.path / "packs", outside)

    points.remove_leftovers()
    packs.remove_leftovers()

    assert (points.ids(), packs.ids()) == (known, stored)
    assert [entry.name for entry in outside.iterdir()] == [f"{'0' * 32}.tmp"]


@pytest.mark.parametrize("make", [lambda p: p.write_bytes(b""), lambda p: os.mkfifo(p)])
def test_only_a_directory_is_opened_as_one(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "points")

    with pytest.raises(DataCorrupt, match="points is not a directory"):
        Folder(tmp_path / "points")


def test_a_reader_switches_to_a_copy_that_replaced_a_directory(
    history: History, tmp_path: Path
) -> None:
    packs, points = packs_at(history.path / "packs"), points_at(history.path / "points")
    new = history.add(image(900))
    (pack,) = history.packs_of(new)
    for name in ("packs", "points"):
        shutil.copytree(history.path / name, tmp_path / name)
        shutil.rmtree(history.path / name)
        shutil.move(tmp_path / name, history.path / name)

    with points.leased(new):
        assert packs.frames(PackId(pack.name))


@pytest.mark.parametrize("name", ["packs", "points"])
def test_an_unmounted_directory_does_not_replace_an_open_one(history: History, name: str) -> None:
    """An unmounted directory is empty, and must not receive packs and points."""
    folder = Folder(history.path / name)
    (history.path / name).rename(history.path / "elsewhere")
    (history.path / name).mkdir()

    assert not folder.reopen()

    assert (folder.at / MARKER).exists()
    shutil.copy(folder.at / MARKER, history.path / name)
    assert folder.reopen()


def test_descriptors_are_closed(history: History) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(3):
        history.add(image(7, 8))
        history.prune()

    assert count() == before
