"""Pins keep the points of overlays through forgets, prunes and crashes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.ids import PointId
from cbtfs.core.pin import Pin, PinId, decode_pin, encode_pin
from cbtfs.core.retention import Policy
from cbtfs.core.sealed import seal, unseal
from cbtfs.core.settings import PINS
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.forget import decide_points, to_forget
from cbtfs.reader import Reader
from cbtfs.store import pins
from cbtfs.store import settings as repository_settings
from cbtfs.store.backend.local import Directory
from cbtfs.store.identity import new_id
from cbtfs.store.pins import PointPinned, load_pins, put_pin, remove_pin
from cbtfs.store.points import PointFolder
from cbtfs.store.repository import reading, writing
from cbtfs.store.settings import load_settings
from tests.core.test_retention import NOW
from tests.scenarios.repository_history import History, image
from tests.store.crashes import Crash, Step, crashing
from tests.store.folders import points_at

STEPS: Final = [
    Step(pins, "make_pins"),
    Step(repository_settings, "save_record"),
    Step(Directory, "create"),
    Step(PointFolder, "ids"),
    Step(Directory, "flush"),
]
"""Functions that writing or removing a pin calls."""


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


def pin_of(point: PointId, name: str = "lab") -> Pin:
    return Pin(PinId(new_id()), point, name, "host1", f"/srv/{name}", "2026-01-01T00:00:00Z")


def put(path: Path, pin: Pin) -> Pin:
    points = points_at(path / "points")
    try:
        put_pin(path, points, pin)
    finally:
        points.close()
    return pin


def read(history: History, point: PointId) -> None:
    """Assert that every disk of *point* reads as expected."""
    with reading(history.path) as repository:
        for record in history.manifests[point].disks:
            content = Reader(repository).disk(record).read(0, record.size)
            assert bytes(content) == history.expected[point][record.label]


def decisions(history: History) -> dict[PointId, tuple[str, ...]]:
    """Return what `--keep-last 1` decides: the reasons that keep each point."""
    with writing(history.path) as repository:
        decided = [item.decision for item in decide_points(repository, [], Policy(last=1), NOW)]
    return {decision.point: decision.reasons for decision in decided}


def test_a_pin_round_trips_and_a_pin_of_another_format_is_refused() -> None:
    pin = pin_of(PointId(new_id()))

    assert decode_pin(encode_pin(pin)) == pin
    with pytest.raises(ValueError, match="pin format 2"):
        decode_pin(seal(unseal(encode_pin(pin)) | {"format": 2}))


def test_the_first_pin_sets_the_feature_that_older_programs_refuse(history: History) -> None:
    point = history.add(image(1))
    assert load_settings(history.path).required == ()

    put(history.path, pin_of(point))
    put(history.path, pin_of(point, "other"))

    assert load_settings(history.path).required == (PINS,)
    assert [pin.name for pin in load_pins(history.path)] == ["lab", "other"]


def test_forget_keeps_a_pinned_point_with_the_reason(history: History) -> None:
    old, _ = history.add(image(1)), history.add(image(2))
    pin = put(history.path, pin_of(old))

    assert decisions(history)[old] == ("overlay lab",)
    with writing(history.path) as repository:
        with pytest.raises(PointPinned, match=r"overlay lab on host1 in /srv/lab"):
            to_forget(repository, [old])
        with pytest.raises(PointPinned):
            repository.forget([old])
    history.verify()
    remove_pin(history.path, pin.id)
    assert decisions(history)[old] == ()


def test_a_pin_does_not_wait_for_a_writer(history: History) -> None:
    point = history.add(image(1))

    with writing(history.path):
        put(history.path, pin_of(point))

    assert len(load_pins(history.path)) == 1


def test_a_point_that_was_forgotten_gets_no_pin(history: History) -> None:
    point = history.add(image(1))
    history.forget(point)

    with pytest.raises(PointNotFound):
        put(history.path, pin_of(point))

    assert load_pins(history.path) == []


def test_a_point_forgotten_under_a_pin_is_a_root_of_prune(history: History) -> None:
    point, _ = history.add(image(1, 2)), history.add(image(3))
    put(history.path, pin_of(point))
    manifest = history.path / "points" / point
    manifest.rename(f"{manifest}.forgotten")  # as a program without pins would

    outcome = history.prune()

    assert (outcome.leased, outcome.dead_objects) == (1, 0)
    read(history, point)


@pytest.mark.parametrize("damage", ["bytes", "name", "directory"])
def test_nothing_is_removed_while_a_pin_cannot_be_read(history: History, damage: str) -> None:
    point = history.add(image(1))
    gone = history.add(image(2))
    history.add(image(3))
    pin = put(history.path, pin_of(point))
    history.forget(gone)
    folder = history.path / "overlays"
    if damage == "bytes":
        (folder / pin.id).write_bytes(encode_pin(pin)[:-9])
    elif damage == "name":
        (folder / pin.id).rename(folder / new_id())
    else:
        folder.rename(history.path / "elsewhere")

    for step in (history.prune, lambda: decisions(history), lambda: history.forget(point)):
        with pytest.raises(DataCorrupt, match="point"):
            step()

    history.verify()


def test_a_prune_removes_what_an_interrupted_pin_left(history: History) -> None:
    put(history.path, pin_of(history.add(image(1))))
    left = history.path / "overlays" / f"{new_id()}.tmp"
    left.touch()

    history.prune()

    assert not left.exists()


@settings(max_examples=12)
@given(st.data())
def test_a_pinned_point_survives_any_history_with_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    history = History(tmp_path_factory.mktemp("pins") / "repo")
    pinned: dict[PinId, PointId] = {}
    uncertain: set[PointId] = set()
    for _ in range(data.draw(st.integers(4, 14))):
        step = data.draw(st.sampled_from(["add", "pin", "pin", "unpin", "forget", "prune"]))
        points = sorted(history.expected, key=lambda point: history.manifests[point].order)
        if step == "add" or not points:
            history.add(image(*data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))))
        elif step == "pin":
            pin = pin_of(data.draw(st.sampled_from(points)))
            if _survives(data, lambda pin=pin: put(history.path, pin)):  # type: ignore[misc]
                pinned[pin.id] = pin.point
            else:
                uncertain.add(pin.point)
        elif step == "unpin" and pinned:
            chosen = data.draw(st.sampled_from([*pinned]))
            uncertain.add(pinned.pop(chosen))
            _survives(data, lambda chosen=chosen: remove_pin(history.path, chosen))  # type: ignore[misc]
        elif step == "forget":
            _forget_by_rules(history, {*pinned.values()}, uncertain)
        elif step == "prune":
            history.prune()
        for point in pinned.values():
            read(history, point)

    history.verify()
    assert {*pinned} <= {pin.id for pin in load_pins(history.path)}


def _survives(data: st.DataObject, act: Callable[[], object]) -> bool:
    """Run *act*, which may crash at one of its steps; return whether it ended."""
    step = data.draw(st.none() | st.sampled_from(STEPS))
    if step is None:
        act()
        return True
    try:
        with crashing(step, after=data.draw(st.booleans())):
            act()
    except Crash:
        return False
    return True


def _forget_by_rules(history: History, pinned: set[PointId], uncertain: set[PointId]) -> None:
    """Forget by `--keep-last 1`; no pinned point may be chosen, nor others be kept."""
    kept = {point for point, reasons in decisions(history).items() if reasons}
    chosen = history.expected.keys() - kept
    assert not chosen & pinned
    newest = max(history.expected, key=lambda point: history.manifests[point].order)
    assert kept <= pinned | uncertain | {newest}
    history.forget(*chosen)


def test_a_pin_and_a_forget_at_once_agree(history: History) -> None:
    """Pins are made by threads while points are forgotten and pruned: no pinned point is lost."""
    points = [history.add(image(n, n + 1)) for n in range(1, 13)]
    pinned: list[PointId] = []

    def pin_all(start: threading.Barrier, mine: list[PointId]) -> None:
        start.wait()
        for point in mine:
            try:
                put(history.path, pin_of(point))
            except PointNotFound:
                continue
            pinned.append(point)

    start = threading.Barrier(3)
    threads = [threading.Thread(target=pin_all, args=(start, points[n::2])) for n in range(2)]
    for thread in threads:
        thread.start()
    start.wait()
    for point in reversed(points[1:]):
        try:
            history.forget(point)
        except PointPinned:
            continue
    for thread in threads:
        thread.join()
    history.prune()

    assert {*history.expected} >= {*pinned}
    history.verify()


def test_prune_lists_pins_under_its_lock(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin that is made while prune is running keeps its point."""
    point = history.add(image(1))

    def late(path: Path) -> list[Pin]:
        put(history.path, pin_of(point))
        return load_pins(path)

    monkeypatch.setattr("cbtfs.prune.prune.load_pins", late)

    history.prune()

    read(history, point)
