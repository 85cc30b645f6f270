"""Points of a repository with shared writers, in memory."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState, encode_manifest
from cbtfs.core.shared import (
    Entry,
    PruneId,
    RunId,
    Tombstone,
    Verdict,
    encode_tombstone,
    encode_verdict,
    numbered,
    of_prune,
)
from cbtfs.errors import PointNotFound, StoreFailed
from cbtfs.store.backend.base import FileBackend, NoReply
from cbtfs.store.identity import new_id
from cbtfs.store.shared import requests
from cbtfs.store.shared.points import CommitUnknown, RunFenced, SharedPoints
from cbtfs.store.shared.session import Session
from tests.make_points import manifest_of
from tests.store.backends.memory import Memory
from tests.store.shared.memory_places import MemoryStore


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "looks.json")


def commit(points: SharedPoints, run: str | None = None) -> RunId:
    """Commit a point; return its run, which is the id of the point unless *run* is given."""
    manifest = manifest_of("vm", None, ())
    name = RunId(run or manifest.point)
    points.commit_run(name, encode_manifest(manifest), PointState(manifest.point))
    return name


def test_another_program_sees_a_commit_and_its_state(store: MemoryStore) -> None:
    mine, theirs = SharedPoints(store.places()), SharedPoints(store.places())
    run = commit(mine)

    (point,) = theirs.ids()
    assert theirs.read_manifest(point).point == point == PointId(run)
    assert theirs.load_state(point)[0] == PointState(point)
    assert theirs.state_stamps() == {point: theirs.load_state(point)[1]}


def test_a_copy_has_a_run_of_its_own(store: MemoryStore) -> None:
    points = SharedPoints(store.places())
    run = commit(points, new_id())

    look = SharedPoints(store.places()).look()
    assert look.living == {look.manifests[run]: run}
    assert look.manifests[run] != PointId(run)


def test_two_copies_of_a_point_are_one_point_and_are_forgotten_together(
    store: MemoryStore,
) -> None:
    points, manifest = SharedPoints(store.places()), manifest_of("vm", None, ())
    for _ in range(2):
        data, state = encode_manifest(manifest), PointState(manifest.point)
        points.commit_run(RunId(new_id()), data, state)

    assert points.ids() == {manifest.point}
    points.forget([manifest.point])
    assert points.ids() == set()
    assert points.forgotten_ids() == {manifest.point}
    points.unforget([manifest.point])
    assert points.ids() == {manifest.point}


def test_a_point_is_either_restored_or_final(store: MemoryStore) -> None:
    points = SharedPoints(store.places())
    run = commit(points)
    (point,) = points.ids()
    points.forget([point])
    with pytest.raises(PointNotFound), points.leased(point):
        pass

    assert points.make_final(run)
    with pytest.raises(PointNotFound, match="a prune has removed"):
        points.unforget([point])
    assert not points.make_final(run)
    assert points.look().log(run).entry is Entry.FINAL


def test_an_unforget_prevents_a_final_entry(store: MemoryStore) -> None:
    points = SharedPoints(store.places())
    run = commit(points)
    (point,) = points.ids()
    points.forget([point])
    SharedPoints(store.places()).unforget([point])

    assert not points.make_final(run)
    assert points.ids() == {point}


def test_a_point_that_was_forgotten_meanwhile_is_not_forgotten_twice(store: MemoryStore) -> None:
    mine, theirs = SharedPoints(store.places()), SharedPoints(store.places())
    commit(mine)
    (point,) = mine.ids()
    theirs.forget([point])

    with pytest.raises(PointNotFound):
        mine.forget([point])


def test_changes_of_a_state_by_two_programs_both_survive(store: MemoryStore) -> None:
    mine, theirs = SharedPoints(store.places()), SharedPoints(store.places())
    commit(mine)
    (point,) = mine.ids()
    base, _ = mine.load_state(point)
    theirs.load_state(point)
    mine.put_state(PointState(point, tags=("a",)))

    theirs.see_state(base)
    theirs.put_state(PointState(point, is_protected=True))

    assert mine.load_state(point)[0] == PointState(point, is_protected=True, tags=("a",))
    assert len(store.backends["states"].names()) == 1


def test_a_fenced_run_cannot_commit(store: MemoryStore) -> None:
    points, run = SharedPoints(store.places()), RunId(new_id())
    store.backends["points"].create(run, encode_tombstone(Tombstone(run, new_id())))

    with pytest.raises(RunFenced):
        commit(points, run)

    assert points.ids() == set()
    assert points.look().tombstones == {run}


def test_a_commit_after_a_verdict_about_its_run_fails(store: MemoryStore) -> None:
    points, run = SharedPoints(store.places()), RunId(new_id())
    prune = PruneId(new_id())
    verdict = Verdict(prune, frozenset(), frozenset([run]), new_id())
    store.backends["prunes"].create(of_prune(prune, "verdict"), encode_verdict(verdict))

    with pytest.raises(RunFenced):
        commit(points, run)

    assert points.ids() == set()


class Silent:
    """Some creates in a backend have no reply, after they had their effect or not."""

    def __init__(self, inner: Memory, effects: list[bool]) -> None:
        self._inner = inner
        self._effects = effects

    def create(self, name: str, data: bytes) -> None:
        if not self._effects:
            self._inner.create(name, data)
            return
        if self._effects.pop(0):
            self._inner.create(name, data)
        raise NoReply(5, "no reply")

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def silent(store: MemoryStore, effects: list[bool]) -> SharedPoints:
    def wrap(name: str, backend: FileBackend) -> FileBackend:
        memory = store.backends[name]
        return Silent(memory, effects) if name == "points" else backend  # type: ignore[return-value]

    return SharedPoints(store.places(wrap))


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("effects", [[True], [False], [True, False], [False, False, False, True]])
def test_a_commit_whose_reply_is_lost_is_recognised_by_its_content(
    store: MemoryStore, effects: list[bool]
) -> None:
    run = commit(silent(store, effects))

    assert SharedPoints(store.places()).ids() == {PointId(run)}


@pytest.mark.usefixtures("_no_pause")
def test_a_writer_that_gives_up_fences_itself_first(store: MemoryStore) -> None:
    with pytest.raises(StoreFailed, match="it is not committed"):
        commit(silent(store, [False] * 5))

    assert len(SharedPoints(store.places()).look().tombstones) == 1


@pytest.mark.usefixtures("_no_pause")
def test_a_commit_that_happened_is_found_by_the_fence(store: MemoryStore) -> None:
    run = commit(silent(store, [True, *([False] * 4)]))

    assert SharedPoints(store.places()).ids() == {PointId(run)}


@pytest.mark.usefixtures("_no_pause")
def test_a_writer_that_cannot_even_fence_itself_says_so(store: MemoryStore) -> None:
    with pytest.raises(CommitUnknown):
        commit(silent(store, [False] * 10))


class Failing:
    """A backend whose *method* fails; a create fails after its effect."""

    def __init__(self, inner: Memory, methods: set[str]) -> None:
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> object:
        inner = getattr(self._inner, name)
        if name not in self._methods:
            return inner

        def failing(*args: str | bytes) -> None:
            if name == "create":
                inner(*args)
            raise OSError(errno.EIO, "Input/output error")

        return failing


@pytest.mark.parametrize("failing", [{"points": {"create", "flush"}}, {"prunes": {"names"}}])
def test_a_commit_that_may_not_be_durable_or_void_is_not_acknowledged(
    store: MemoryStore, failing: dict[str, set[str]]
) -> None:
    def wrap(name: str, backend: FileBackend) -> FileBackend:
        failed = Failing(store.backends[name], failing.get(name, set()))
        return failed  # type: ignore[return-value]

    with pytest.raises(CommitUnknown, match="see 'cbtfs list'"):
        commit(SharedPoints(store.places(wrap)))


def test_a_session_leaves_no_intent_behind(store: MemoryStore) -> None:
    session = Session(store.places())
    runs = session.announce(3)
    assert len(store.backends["intents"].names()) == 4

    run = session.take()
    assert run == runs[0]
    session.finish(run)
    session.close()

    assert not store.backends["intents"].names()


def test_states_are_kept_under_numbers(store: MemoryStore) -> None:
    points = SharedPoints(store.places())
    run = commit(points)
    (point,) = points.ids()
    for count in range(3):
        points.put_state(PointState(point, tags=("t" * (count + 1),)))

    assert store.backends["states"].names() == [numbered(run, 3)]


def test_points_are_listed_while_other_threads_learn_of_more(store: MemoryStore) -> None:
    points = SharedPoints(store.places())
    for _ in range(5):
        commit(points, new_id())
    stop = threading.Event()

    def learn() -> None:
        while not stop.is_set():
            run = RunId(new_id())
            points.trust([], {run: PointId(new_id())})

    with ThreadPoolExecutor(1) as pool:
        learning = pool.submit(learn)
        for _ in range(300):
            assert len(points.other_runs()) >= 5
        stop.set()
        learning.result()
