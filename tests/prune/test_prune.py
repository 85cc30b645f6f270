"""Prune removes unreferenced objects, and nothing else."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import FRAME_HEADER_BYTES, Kind
from cbtfs.core.ids import PackId
from cbtfs.errors import DataCorrupt
from cbtfs.liveness import Marker
from cbtfs.prune import sweep
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PackUse, PruneLimits, select
from cbtfs.reader import Reader
from cbtfs.store.catalog.records import META
from cbtfs.store.catalog.view import NEXT_OBJECT
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import reading, writing
from tests.make_points import BLOCK, add_point, new_repository
from tests.scenarios.repository_history import History, block, image


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


def long_image(first: int, blocks: int = 3 * FANOUT) -> bytes:
    return image(*range(first, first + blocks))


def test_objects_of_a_forgotten_point_are_freed(history: History) -> None:
    kept = history.add(long_image(1))
    gone = history.add(long_image(1000))
    before = history.pack_bytes()
    history.forget(gone)

    outcome = history.prune()

    assert history.pack_bytes() == before - outcome.freed_bytes
    assert outcome.freed_bytes > 3 * FANOUT * BLOCK
    assert outcome.points == 1
    assert list(history.expected) == [kept]
    history.verify()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_base_middle_and_newest_go_alike(history: History, which: int) -> None:
    content = bytearray(long_image(1))
    points = []
    for step in range(3):
        content[step * BLOCK : (step + 1) * BLOCK] = block(900 + step)
        points.append(history.add(bytes(content), changed=None if step == 0 else [step]))
    history.forget(points[which])

    history.prune()

    history.verify()
    history.add(bytes(content[:BLOCK]) + block(77) + bytes(content[2 * BLOCK :]), changed=[1, 2])
    history.verify()


@settings(max_examples=25)
@given(st.data())
def test_any_history_reads_right_and_holds_no_more_than_it_needs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    history = History(tmp_path_factory.mktemp("history") / "repo")
    seeds = st.lists(st.integers(0, 12), min_size=1, max_size=FANOUT + 9)
    for _ in range(data.draw(st.integers(1, 8))):
        step = data.draw(st.sampled_from(["add", "add", "forget", "prune"]))
        if step == "add":
            history.add(image(*data.draw(seeds)))
        elif step == "forget" and history.expected:
            history.forget(data.draw(st.sampled_from(sorted(history.expected))))
        elif step == "prune":
            history.prune()
        history.verify()
    history.prune()

    history.verify()
    needed = {
        chunk_digest(disk[at : at + BLOCK])
        for disks in history.expected.values()
        for disk in disks.values()
        for at in range(0, len(disk), BLOCK)
        if any(disk[at : at + BLOCK])
    }
    with reading(history.path) as repository, repository.catalog.view() as view:
        stored = [place.frame for _, place in view.all_locations()]
        standing = {
            frame.digest
            for record in view.packs().values()
            for frame in repository.packs.frames(record.id)[0]
        }
    assert sorted(f.digest for f in stored if f.kind is Kind.CHUNK) == sorted(needed)
    assert standing == {frame.digest for frame in stored}


def test_a_dry_run_predicts_a_prune_and_changes_nothing(history: History) -> None:
    history.add(long_image(1))
    history.forget(history.add(long_image(50)))
    before = history.pack_bytes()

    foreseen = history.prune(is_dry_run=True)

    assert history.pack_bytes() == before
    assert replace(foreseen, is_dry_run=False) == history.prune()


def test_bytes_that_other_points_need_are_reported_as_shared(history: History) -> None:
    history.add(image(1, 2, 3))
    history.forget(history.add(image(1, 2, 4)))

    outcome = history.prune()

    assert (outcome.shared_objects, outcome.dead_objects) == (2, 2)
    assert 2 * BLOCK < outcome.shared_bytes < 3 * BLOCK


def test_a_second_prune_finds_nothing(history: History) -> None:
    history.add(long_image(1))
    history.forget(history.add(long_image(99)))
    history.prune()

    outcome = history.prune()

    assert (outcome.dead_objects, outcome.freed_bytes, outcome.removed_packs) == (0, 0, 0)
    assert outcome.unused_bytes == 0


def test_a_dead_chunk_is_stored_again(history: History) -> None:
    history.forget(history.add(long_image(1)))
    history.prune()

    history.add(long_image(1))

    history.verify()


def elsewhere(history: History, *arguments: str) -> dict[str, Any]:
    """Return the output of a command in a separate process."""
    command = [sys.executable, "-m", "cbtfs", f"--repo={history.path}", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_leased_objects_stay_until_the_lease_ends(history: History) -> None:
    history.add(image(1))
    gone = history.add(image(2))
    with reading(history.path) as repository, repository.points.leased(gone):
        disk = Reader(repository).disk(history.manifests[gone].disks[0])
        elsewhere(history, "forget", gone)

        assert elsewhere(history, "prune", "--max-unused", "0%")["leased"] == 1
        assert bytes(disk.read(0, BLOCK)) == block(2)
    assert history.prune().dead_objects == 2


def test_a_reader_finds_moved_objects(history: History) -> None:
    kept = history.add(long_image(1))
    gone = history.add(long_image(1, FANOUT) + long_image(500))
    history.forget(kept)
    history.add(long_image(500, FANOUT))
    with reading(history.path) as repository:
        disk = Reader(repository, cache_bytes=0).disk(history.manifests[gone].disks[0])
        assert bytes(disk.read(0, disk.size)) == history.expected[gone]["disk"]

        assert elsewhere(history, "prune", "--max-unused", "0%")["removed_packs"] > 0
        repository.packs.forget_open()

        assert bytes(disk.read(0, disk.size)) == history.expected[gone]["disk"]


def test_nothing_is_removed_while_something_that_is_needed_is_missing(history: History) -> None:
    history.add(long_image(1))
    history.forget(history.add(long_image(300)))
    lost, _ = _place_of(history, block(1))
    (history.path / "packs" / lost[:2] / lost).unlink()
    packs = sorted((history.path / "packs").glob("*/*"))

    with pytest.raises(DataCorrupt, match="nothing was removed"):
        history.prune()

    assert sorted((history.path / "packs").glob("*/*")) == packs


def test_nothing_is_removed_while_a_manifest_cannot_be_read(history: History) -> None:
    kept = history.add(image(1))
    history.forget(history.add(image(2)))
    manifest = history.path / "points" / kept
    manifest.write_bytes(manifest.read_bytes().replace(b'"order":1', b'"order":7'))

    with pytest.raises(DataCorrupt, match="damaged"):
        history.prune()

    assert history.pack_bytes() > 2 * BLOCK


def test_a_damaged_object_stays_in_its_pack_and_is_reported(history: History) -> None:
    whole = history.add(image(*range(1, 9)))
    kept = history.add(image(*range(1, 5)))
    history.forget(whole)
    place = _place_of(history, block(3))
    _flip(history.path / "packs" / place[0][:2] / place[0], place[1] + FRAME_HEADER_BYTES + 99)

    outcome = history.prune()

    assert len(outcome.damaged) == 1
    del history.expected[kept]
    with reading(history.path) as repository:
        disk = Reader(repository).disk(history.manifests[kept].disks[0])
        assert bytes(disk.read(0, BLOCK)) == block(1)
        with pytest.raises(DataCorrupt):
            disk.read(2 * BLOCK, BLOCK)


def _place_of(history: History, content: bytes) -> tuple[PackId, int]:
    with reading(history.path) as repository, repository.catalog.view() as view:
        number = view.find(Kind.CHUNK, 0, chunk_digest(content))
        assert number is not None
        location = view.location(number)
        assert location is not None
        record = view.pack(location.pack)
        assert record is not None
        return record.id, location.frame.offset


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_the_manifest_of_a_disks_newest_point_stays_until_a_newer_one(history: History) -> None:
    history.add(image(1))
    newest = history.add(image(2))
    history.forget(newest)

    assert history.prune().forgotten == 0

    history.add(image(3))
    history.add(image(4))
    assert history.prune().forgotten == 1
    assert not list((history.path / "points").glob(f"{newest}*"))


@pytest.mark.parametrize("looked_at", [1, 20])
def test_dropping_in_small_steps_comes_to_the_same(
    history: History, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    monkeypatch.setattr(sweep, "_LOOKED_AT", looked_at)
    history.add(long_image(1))
    history.forget(history.add(long_image(90)))
    with writing(history.path) as repository:
        with repository.catalog.view() as view:
            living = Marker(repository.catalog, view.packs().keys())
        living.mark([history.manifests[point] for point in history.expected])

        assert sweep.sweep(repository.catalog, living.marked, lambda _: None, batch=3) > FANOUT
        with repository.catalog.view() as view:
            assert all(number in living.marked for number, _ in view.all_locations())
    history.verify()


def use(number: int, size: int, live: int) -> PackUse:
    return PackUse(number, PackId(f"{number:032x}"), size, 1 if live else 0, live)


def test_packs_are_rewritten_until_little_enough_is_unused() -> None:
    packs = [use(1, 1000, 0), use(2, 1000, 100), use(3, 1000, 700), use(4, 1000, 900)]

    chosen = select(packs, PruneLimits(unused_share=0.2))

    assert [pack.number for pack in chosen.removed] == [1]
    assert [pack.number for pack in chosen.rewritten] == [2]


def test_no_more_is_rewritten_than_allowed() -> None:
    packs = [use(1, 10_000, 3000), use(2, 10_000, 2000), use(3, 10_000, 1000)]

    chosen = select(packs, PruneLimits(unused_share=0.0, repack_bytes=3500))

    assert [pack.number for pack in chosen.rewritten] == [3, 2]


def test_what_a_rewrite_frees_no_longer_counts_as_size() -> None:
    packs = [use(1, 10_000, 100), use(2, 10_000, 8100)]

    chosen = select(packs, PruneLimits(unused_share=0.12))

    assert [pack.number for pack in chosen.rewritten] == [1, 2]


def test_a_sweep_reuses_no_id_after_the_next_id_was_lost(history: History) -> None:
    history.add(image(1, 2))
    with writing(history.path) as repository:
        catalog = repository.catalog
        catalog.update(lambda update: update._delete(META, NEXT_OBJECT))
        with catalog.view() as view:
            following = view.next_object()
            nothing = Marker(catalog, view.packs().keys())

        assert sweep.sweep(catalog, nothing.marked, lambda _: None) > 0
        with catalog.view() as view:
            assert view.next_object() == following


def test_every_damaged_object_of_a_pack_is_reported(history: History) -> None:
    whole = history.add(image(*range(1, 9)))
    history.add(image(*range(1, 5)))
    history.forget(whole)
    for number in (2, 3):
        pack, at = _place_of(history, block(number))
        _flip(history.path / "packs" / pack[:2] / pack, at + FRAME_HEADER_BYTES + 99)

    assert len(history.prune().damaged) == 2


@pytest.mark.parametrize("newer", [["A"], ["A", "B"]])
def test_a_manifest_stays_until_each_of_its_disks_has_a_newer_point(
    tmp_path: Path, newer: list[str]
) -> None:
    path = new_repository(tmp_path / "repo")
    both = {"A": block(1), "B": block(2)}
    older = add_point(path, both)
    add_point(path, {label: both[label] for label in newer})
    with writing(path) as repository:
        repository.forget([older.point])
        outcome = prune(repository, PruneLimits())

    assert outcome.forgotten == (1 if newer == ["A", "B"] else 0)
