"""A prune beside writers, in a repository with shared writers."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.check.check import check
from cbtfs.core.frame import Kind
from cbtfs.core.manifest import Manifest, PointState, encode_manifest
from cbtfs.core.pin import Pin, PinId
from cbtfs.core.shared import Intent, RunId, encode_intent
from cbtfs.errors import DataCorrupt, PointNotFound, StoreFailed, UsageError
from cbtfs.prune.prune import prune
from cbtfs.prune.result import PruneResult
from cbtfs.prune.select import PruneLimits
from cbtfs.store.backend.local import Directory, ShardedDirectory
from cbtfs.store.codec import Encoder
from cbtfs.store.file_indexes import FileIndexes
from cbtfs.store.identity import new_id
from cbtfs.store.pins import PointPinned, put_pin, remove_pin
from cbtfs.store.repository import reading, writing
from cbtfs.store.shared import looks as looks_module
from cbtfs.store.shared.looks import Looks
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.places import LOOKS, Places, open_places
from cbtfs.store.shared.points import RunFenced, SharedPoints
from cbtfs.store.shared.presence import BeatPresence
from cbtfs.store.shared.session import Session
from tests.make_points import BLOCK, add_point, commit_point, read_point
from tests.shared_writers import new_shared
from tests.store.backends.memory import Memory

ALL = PruneLimits(unused_share=0.0)


class DiedError(BaseException):
    """The death of a program before a change of the store."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_shared(tmp_path / "repository")


def image(seed: int, blocks: int = 20) -> bytes:
    return random.Random(seed).randbytes(BLOCK * blocks)


def forget(path: Path, *points: Manifest) -> None:
    with writing(path) as repository:
        repository.forget([point.point for point in points])


def pruned(path: Path, limits: PruneLimits = ALL) -> PruneResult:
    with writing(path) as repository:
        return prune(repository, limits)


def packs_of(path: Path) -> set[str]:
    return {pack.name for pack in path.glob("packs/*/*") if pack.parent.name != "packs"}


def assert_intact(path: Path, *points: tuple[Manifest, bytes]) -> None:
    for point, content in points:
        assert read_point(path, point) == {"disk": content}
    assert not check(path, read_data=True).problems


@contextmanager
def other_writer(path: Path, commits: int = 1) -> Iterator[tuple[Places, Session]]:
    """Another writer that has announced runs; it ends in good order."""
    with ExitStack() as stack:
        places = open_places(path)
        stack.callback(places.close)
        session = Session(places)
        stack.callback(session.close)
        session.announce(commits)
        yield places, session


def rescue(path: Path, content: bytes) -> Manifest:
    """Condemn the pack of *content* beside a writer that then commits it; return its point."""
    first = add_point(path, {"disk": content})
    with writing(path) as repository:
        objects = repository.object_writer()
        repository.forget([first.point])
        assert prune(repository, ALL).waiting_packs == 1
        second = commit_point(repository, {"disk": content}, writer=objects)
        objects.close()
    return second


def test_a_forgotten_point_goes_and_others_stay(path: Path) -> None:
    first = add_point(path, {"disk": image(1)})
    second = add_point(path, {"disk": image(1)[: BLOCK * 10] + image(2)[: BLOCK * 10]})
    before = packs_of(path)
    forget(path, first)

    result = pruned(path)

    assert result.removed_packs == 1
    assert result.rewritten_bytes > 0
    assert result.freed_bytes > 9 * BLOCK
    assert len(packs_of(path) & before) == 1
    assert_intact(path, (second, image(1)[: BLOCK * 10] + image(2)[: BLOCK * 10]))
    assert pruned(path).removed_packs == 0


def test_nothing_remains_of_a_prune_but_its_verdict(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    forget(path, first)
    pruned(path)

    names = {name: [*(path / name).iterdir()] for name in ("prunes", "intents", "forgotten")}
    assert [file.suffix for file in names["prunes"]] == [".verdict"]
    assert not names["intents"]
    assert {p.name for p in (path / "points").iterdir()} >= {"marker.json"}
    assert_intact(path, (second, image(2)))


def test_a_prune_waits_for_a_writer_and_a_later_one_completes_it(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    before = packs_of(path)
    with other_writer(path):
        forget(path, first)
        result = pruned(path)

        assert (result.removed_packs, result.waiting_packs, result.waiting_writers) == (0, 1, 1)
        assert packs_of(path) == before

    assert pruned(path).removed_packs == 1
    assert_intact(path, (second, image(2)))


def test_a_later_prune_waits_only_for_the_writers_of_the_first_look(path: Path) -> None:
    first, _ = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    forget(path, first)
    with other_writer(path):
        assert pruned(path).waiting_packs == 1
    with other_writer(path):
        assert pruned(path).removed_packs == 1


def test_a_writer_that_began_before_the_candidates_rescues_a_pack(path: Path) -> None:
    content = image(1)
    second = rescue(path, content)

    result = pruned(path)

    assert result.removed_packs == 0
    assert_intact(path, (second, content))


def test_a_writer_that_begins_after_the_candidates_stores_their_objects_again(path: Path) -> None:
    content = image(1)
    first = add_point(path, {"disk": content})
    forget(path, first)
    with other_writer(path):
        assert pruned(path).waiting_packs == 1
        condemned = packs_of(path)
        with writing(path) as repository:
            objects = repository.object_writer()
            second = commit_point(repository, {"disk": content}, writer=objects)
            objects.close()
        assert packs_of(path) > condemned

    assert pruned(path).removed_packs == 1
    assert_intact(path, (second, content))


def test_a_base_in_a_condemned_pack_is_rescued_by_the_next_writer(path: Path) -> None:
    content = image(1)
    second = rescue(path, content)
    with writing(path) as repository:
        objects = repository.object_writer()
        third = commit_point(repository, {"disk": content}, changed={"disk": []}, writer=objects)
        objects.close()

    pruned(path)

    assert_intact(path, (second, content), (third, content))


def test_a_commit_that_needs_condemned_packs_is_refused(path: Path) -> None:
    content = image(1)
    first = add_point(path, {"disk": content})
    forget(path, first)
    with other_writer(path):
        assert pruned(path).waiting_packs == 1
        with writing(path) as repository, pytest.raises(StoreFailed, match="about to delete"):
            commit_point(repository, {"disk": content})

    assert pruned(path).removed_packs == 1
    assert not check(path, read_data=True).problems


def test_a_stale_run_is_fenced_and_its_late_commit_refused(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    places = open_places(path)
    session = Session(places)
    (run,) = session.announce(1)
    session._stack.close()  # The process has died: its lock is gone.
    forget(path, first)

    assert pruned(path).removed_packs == 1

    assert not [*(path / "intents").iterdir()]
    with pytest.raises(RunFenced):
        SharedPoints(places).commit_run(run, encode_manifest(second), PointState(second.point))
    places.close()
    assert_intact(path, (second, image(2)))


def test_a_dead_run_that_had_committed_keeps_its_point(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    places = open_places(path)
    session = Session(places)
    (run,) = session.announce(1)
    data, state = encode_manifest(second), PointState(second.point)
    SharedPoints(places).commit_run(run, data, state)
    session._stack.close()
    places.close()
    forget(path, first)

    pruned(path)

    assert not [*(path / "intents").iterdir()]
    assert (path / "points" / run).exists()
    assert_intact(path, (second, image(2)))


def test_packs_of_a_running_writer_are_not_condemned(path: Path) -> None:
    with writing(path) as repository:
        objects = repository.object_writer()
        encoder = Encoder()
        for seed in range(9):
            data = image(seed, 1)
            digest = objects.digester.chunk(data)
            objects.put_chunk(encoder.encode(Kind.CHUNK, 0, digest, data))
        objects.flush()
        before = packs_of(path)

        result = prune(repository, ALL)
        manifest = commit_point(repository, {"disk": image(3, 1)}, writer=objects)
        objects.close()

    assert before
    assert result.waiting_packs == 0
    assert packs_of(path) >= before
    assert_intact(path, (manifest, image(3, 1)))


def test_a_pinned_point_stays_and_goes_after_its_pin(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    pin = Pin(PinId(new_id()), first.point, "lab", "/lab", "host", "2026-01-01T00:00:00Z")
    with reading(path) as repository:
        put_pin(path, repository.points, pin)
    with writing(path) as repository, pytest.raises(PointPinned, match="needed by"):
        repository.forget([first.point])
    remove_pin(path, pin.id)
    forget(path, first)
    assert pruned(path).removed_packs == 1

    with reading(path) as repository, pytest.raises(PointNotFound):
        put_pin(path, repository.points, pin)
    assert not [*(path / "overlays").iterdir()]
    assert_intact(path, (second, image(2)))


def test_a_leased_point_stays_until_the_lease_ends(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    places = open_places(path)
    points = SharedPoints(places)
    with points.leased(first.point):
        forget(path, first)
        result = pruned(path)
        assert (result.removed_packs, result.leased) == (0, 1)
        with points.leased(first.point, is_open=True):
            pass
        with pytest.raises(PointNotFound), points.leased(first.point):
            pass
    places.close()

    assert pruned(path).removed_packs == 1
    assert_intact(path, (second, image(2)))


def test_a_forgotten_point_comes_back_until_a_prune(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    forget(path, first)
    with writing(path) as repository:
        repository.points.unforget([first.point])
    pruned(path)

    assert_intact(path, (first, image(1)), (second, image(2)))


def test_a_prune_completes_after_a_death_at_any_object(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = image(2)[: BLOCK * 10] + image(1)[: BLOCK * 10]
    deaths = 0
    while True:
        first = add_point(path, {"disk": image(1)})
        second = add_point(path, {"disk": content})
        forget(path, first)
        changes = 0

        def counted(*_: object, limit: int = deaths) -> None:
            nonlocal changes
            changes += 1
            if changes > limit:
                raise DiedError

        with monkeypatch.context() as patch:
            for owner in (Directory, ShardedDirectory):
                for name in ("create", "delete"):
                    inner = getattr(owner, name)

                    def change(self: object, *a: object, _inner: Any = inner) -> object:
                        counted()
                        return _inner(self, *a)

                    patch.setattr(owner, name, change)
            try:
                pruned(path)
                is_done = True
            except DiedError:
                is_done = False
        pruned(path)
        assert_intact(path, (second, content))
        assert not [*(path / "prunes").glob("*.candidates")]
        forget(path, second)
        pruned(path)
        if is_done:
            break
        deaths += 2

    assert deaths >= 6


def test_a_damaged_verdict_stops_a_prune(path: Path) -> None:
    first, _ = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    forget(path, first)
    pruned(path)
    (verdict,) = (path / "prunes").iterdir()
    verdict.write_bytes(verdict.read_bytes()[:-9])

    with pytest.raises(DataCorrupt, match="damaged"):
        pruned(path)


def test_a_prune_does_not_rekey(path: Path) -> None:
    with writing(path) as repository, pytest.raises(UsageError, match="--rekey"):
        prune(repository, PruneLimits(rekeys=True))


def test_a_dry_run_changes_nothing(path: Path) -> None:
    first, _ = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    forget(path, first)
    before = sorted(file for file in path.rglob("*") if file.parent.name != "locks")
    with writing(path) as repository:
        result = prune(repository, ALL, is_dry_run=True)

    assert result.removed_packs == 1
    assert result.freed_bytes > 19 * BLOCK
    assert sorted(f for f in path.rglob("*") if f.parent.name != "locks") == before


def test_only_indexes_of_removed_points_go(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    with closing(FileIndexes(path)) as indexes:
        for point in (first, second):
            indexes.put(point.point, b"an index")
    forget(path, first)
    pruned(path)

    with closing(FileIndexes(path)) as indexes:
        assert indexes.ids() == {second.point}


def test_a_prune_without_work_leaves_no_verdict(path: Path) -> None:
    first, second = (add_point(path, {"disk": image(n)}, vm=f"vm{n}") for n in (1, 2))
    forget(path, first)
    assert pruned(path).removed_packs == 1  # The manifest, the last one of its VM, stays.
    (verdict,) = (path / "prunes").iterdir()

    assert pruned(path).forgotten == 0

    assert [*(path / "prunes").iterdir()] == [verdict]
    assert_intact(path, (second, image(2)))


def test_a_point_that_another_prune_removes_meanwhile_is_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    inner, calls = SharedPoints.read_run, [1]

    def gone(self: SharedPoints, run: RunId) -> Manifest:
        if calls and calls.pop():
            raise PointNotFound(f"point {run} is gone")
        return inner(self, run)

    forget(path, first)
    monkeypatch.setattr(SharedPoints, "read_run", gone)

    assert pruned(path).removed_packs == 1
    assert_intact(path, (second, image(2)))


def test_a_run_whose_session_has_ended_becomes_stale(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (add_point(path, {"disk": image(n)}) for n in (1, 2))
    run, session = RunId(new_id()), new_id()
    looks = Looks(path / LOOKS)
    with writing(path) as repository:
        assert repository.shared is not None
        presence = BeatPresence(Memory(), Memory(), looks)
        places = replace(repository.shared.places, presence=presence, looks=lambda: looks)
        repository.shared.places = places
        places.intents.create(run, encode_intent(Intent(run, session, this_process())))
        repository.forget([first.point])
        assert prune(repository, ALL).waiting_packs == 1

        later = looks_module.boot_clock() + 25 * 3600
        monkeypatch.setattr(looks_module, "boot_clock", lambda: later)
        result = prune(repository, ALL)

    assert (result.removed_packs, result.waiting_packs) == (1, 0)
    assert_intact(path, (second, image(2)))
