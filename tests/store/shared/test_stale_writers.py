"""Writers that were stopped or interrupted, beside prunes, in a repository with shared writers."""

from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cbtfs.check.check import check
from cbtfs.core.frame import Kind
from cbtfs.core.ids import PackId
from cbtfs.core.manifest import PointState
from cbtfs.core.shared import RunId
from cbtfs.errors import DataCorrupt, StoreFailed
from cbtfs.listing import points
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store import repository as repository_module
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog_opening import replace_catalog
from cbtfs.store.codec import Encoder
from cbtfs.store.lock import WriterLock
from cbtfs.store.packs import PackFolder, open_pack_folder
from cbtfs.store.repository import Repository, rebuild_catalog, writing
from cbtfs.store.shared import follow as follow_module
from cbtfs.store.shared.numbering import Numbering
from cbtfs.store.shared.places import open_places
from cbtfs.store.shared.points import SharedPoints
from cbtfs.store.shared.upgrade import share
from cbtfs.store.turns import Turns
from cbtfs.store.writer import ObjectWriter
from cbtfs.unforget import unforget
from tests.make_points import BLOCK, add_point, commit_point, new_repository, read_point
from tests.shared_writers import new_shared

ALL = PruneLimits(unused_share=0.0)
CONTENT = bytes(range(1, 129)) * (BLOCK // 128)


class DiedError(BaseException):
    """The death of a program."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_shared(tmp_path / "repository")


def put(objects: ObjectWriter, content: bytes) -> None:
    digest = objects.digester.chunk(content)
    objects.put_chunk(Encoder().encode(Kind.CHUNK, 0, digest, content))


def leave_pack(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a pack with CONTENT that the catalog does not know, as a writer that is killed does."""

    def die(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(Numbering, "enter", die)
        with closing(repository.object_writer()) as objects:
            put(objects, CONTENT)
            with pytest.raises((DiedError, StoreFailed)):
                objects.flush()


def test_a_late_catch_up_enters_no_pack_that_a_verdict_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(path) as repository:
        leave_pack(repository, monkeypatch)
    writers: list[ObjectWriter] = []
    load = follow_module._load

    with monkeypatch.context() as first, closing(open_pack_folder(path)) as packs:
        first.setattr(follow_module, "_load", lambda packs, _: load(packs, ()))
        with writing(path) as repository:  # The pack stays unknown.
            first.setattr(follow_module, "_load", load)

            def stopped(packs: PackFolder, unknown: Collection[PackId]) -> follow_module.Unknown:
                """Meanwhile a prune deletes the pack, and another writer looks."""
                loaded = load(packs, unknown)
                assert loaded
                first.setattr(follow_module, "_load", load)
                assert prune(repository, ALL).removed_packs == 1
                writers.append(repository.object_writer())
                return loaded

            with closing(SharedPoints(open_places(path))) as late:
                first.setattr(follow_module, "_load", stopped)
                follow_module.follow(repository.catalog, packs, late)
            (objects,) = writers
            point = commit_point(repository, {"disk": CONTENT}, writer=objects)
            objects.close()

    assert read_point(path, point) == {"disk": CONTENT}
    assert not check(path, read_data=True).problems


def test_an_unforget_ignores_packs_that_the_catalog_does_not_know(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = add_point(path, {"disk": CONTENT[::-1]})
    with writing(path) as repository:
        repository.forget([point.point])
        assert prune(repository, ALL).removed_packs == 1  # The manifest stays.
        leave_pack(repository, monkeypatch)

        with pytest.raises(DataCorrupt, match="prune has removed its objects"):
            unforget(repository, [point.point])


def test_a_fenced_writer_enters_no_pack(path: Path) -> None:
    with writing(path) as repository:
        with closing(repository.object_writer()) as objects:
            put(objects, CONTENT)
            for intent in (path / "intents").iterdir():
                intent.unlink()  # As a prune does that fences the run as stale.
            with pytest.raises(StoreFailed, match="fenced the run as stale"):
                objects.flush()
        with repository.catalog.view() as view:
            assert not view.pack_numbers()


def test_packs_of_a_writer_that_died_are_reclaimed_by_one_prune(path: Path) -> None:
    with writing(path) as repository:
        with closing(repository.object_writer()) as objects:
            put(objects, CONTENT)
            objects.flush()
        assert repository.shared is not None
        repository.shared._session._stack.close()  # The process has died: its lock is gone.

        assert prune(repository, ALL).removed_packs == 1
        assert not [*(path / "intents").iterdir()]


def test_an_interrupted_commit_leaves_its_intent_to_a_prune(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = SharedPoints.commit_run
    other = add_point(path, {"disk": CONTENT[::-1]}, vm="other")

    def interrupted(self: SharedPoints, run: RunId, data: bytes, state: PointState) -> None:
        inner(self, run, data, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SharedPoints, "commit_run", interrupted)
        with (
            pytest.raises(KeyboardInterrupt),
            writing(path) as repository,
            closing(repository.object_writer()) as objects,
        ):
            commit_point(repository, {"disk": CONTENT}, writer=objects)
    (intent,) = (path / "intents").iterdir()
    assert (path / "points" / intent.name).exists()

    with writing(path) as repository:
        repository.forget([other.point])
        assert prune(repository, ALL).removed_packs == 1
        with repository.catalog.view() as view:
            (point,) = points(view)
    assert not [*(path / "intents").iterdir()]
    assert read_point(path, point.manifest) == {"disk": CONTENT}


def test_a_commit_that_the_catalog_does_not_get_is_reported_as_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFailed("the catalog is full")

    with writing(path) as repository:
        commit_point(repository, {"disk": CONTENT})
        monkeypatch.setattr(Update, "add_runs", full)
        with pytest.raises(StoreFailed, match="is committed, but the catalog is full"):
            commit_point(repository, {"disk": CONTENT})


def test_a_rebuild_that_waited_for_an_upgrade_takes_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_repository(tmp_path / "repository")
    point = add_point(path, {"disk": CONTENT})
    take = repository_module.take_lock
    turns: list[object] = []

    def take_late(path: Path, wait: float) -> WriterLock:
        monkeypatch.setattr(repository_module, "take_lock", take)
        with writing(path) as repository:
            share(repository)
        return take(path, wait)

    def replaced(*args: Any) -> object:
        turns.append(args[-1])
        return replace_catalog(*args)

    monkeypatch.setattr(repository_module, "take_lock", take_late)
    monkeypatch.setattr(repository_module, "replace_catalog", replaced)

    rebuild_catalog(path)

    assert [type(turn) for turn in turns] == [Turns]
    assert read_point(path, point) == {"disk": CONTENT}
