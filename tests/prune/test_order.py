"""Preconditions of the removal of a pack, checked at each removal and each update."""

import os
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.frame import FOOTER_BYTES, Kind
from cbtfs.core.ids import PackId
from cbtfs.prune import prune
from cbtfs.prune.rewrite import Rewriter
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.digest import chunk_digest
from cbtfs.store.packs import PackFolder
from cbtfs.store.repository import reading
from tests.scenarios.repository_history import History, block, image
from tests.store.folders import packs_at


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return a history with sparse packs and packs without live objects."""
    history = History(tmp_path / "repository")
    history.add(image(*range(1, 60)))
    history.add(image(*(seed if seed % 3 else 500 + seed for seed in range(1, 60))))
    first, second = history.expected
    history.forget(history.add(image(*range(700, 740))), first)
    assert second in history.expected
    return history


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes of flushed files and directories."""
    inodes = set[int]()
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        inodes.add(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    return inodes


def test_the_catalog_knows_no_pack_that_is_removed(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each removal, no committed point refers to an object in the pack."""
    removed, known = list[PackId](), list[PackId]()
    catalogs = list[Any]()
    real = PackFolder.remove

    def remove(folder: PackFolder, pack: PackId) -> None:
        with catalogs[0].view() as view:
            known.extend({record.id for record in view.packs().values()} & {pack})
        removed.append(pack)
        real(folder, pack)

    monkeypatch.setattr(PackFolder, "remove", remove)
    _watch_catalog(monkeypatch, catalogs)

    outcome = history.prune()

    assert len(removed) == outcome.removed_packs > 2
    assert outcome.rewritten_bytes > 0
    assert known == []


def _watch_catalog(monkeypatch: pytest.MonkeyPatch, catalogs: list[Any]) -> None:

    def rewriter(repository: Any, *arguments: Any, **named: Any) -> Any:
        catalogs.append(repository.catalog)
        return Rewriter(repository, *arguments, **named)

    monkeypatch.setattr(prune, "Rewriter", rewriter)


def test_a_new_pack_is_durable_before_the_catalog_knows_it(
    history: History, monkeypatch: pytest.MonkeyPatch, synced: set[int]
) -> None:
    """The file and its directory were flushed under the final name."""
    folder = packs_at(history.path / "packs")
    added = list[PackId]()
    real = Update.add_pack

    def add_pack(self: Update, pack: PackId, size: int, objects: int, signer: bytes = b"") -> int:
        path = folder.path(pack)
        assert path.stat().st_size == size
        assert {path.stat().st_ino, path.parent.stat().st_ino} <= synced
        added.append(pack)
        return real(self, pack, size, objects, signer)

    monkeypatch.setattr(Update, "add_pack", add_pack)

    assert history.prune().rewritten_bytes > 0
    assert added


def test_a_pack_whose_objects_are_not_all_found_stays(history: History) -> None:
    """The trailer and the header of a live object are damaged, so that a scan misses the object."""
    path, place = _place_of_living(history)
    data = bytearray(path.read_bytes())
    data[place.frame.offset] ^= 1
    data[-FOOTER_BYTES] ^= 1
    path.write_bytes(data)

    outcome = history.prune()

    assert path.read_bytes() == data
    assert any(path.name in problem and "found" in problem for problem in outcome.damaged)


def _place_of_living(history: History) -> tuple[Path, Location]:
    with reading(history.path) as repository, repository.catalog.view() as view:
        number = view.find(Kind.CHUNK, 0, chunk_digest(block(2)))
        assert number is not None
        place = view.location(number)
        assert place is not None
        record = view.pack(place.pack)
        assert record is not None
        return repository.packs.path(record.id), place
