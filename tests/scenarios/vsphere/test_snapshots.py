"""The snapshot of a run among others: which are removed, kept or noticed."""

import threading
from collections.abc import Callable

import pytest

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.snapshots.snapshot_disk import Watch
from tests.scenarios.vsphere.site import SECOND, TRANSPORTS, VM, Lab

OTHERS = "cbtfs-00000000-" + "0" * 32
"""A snapshot of a run into another repository."""


@pytest.fixture
def beside(tracked: Lab) -> Lab:
    """A site with a transport that accepts other snapshots."""
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.write(0, b"changed", disk=SECOND)
    return tracked


def during(action: Callable[[], object]) -> Callable[[str, int], Callable[[int], None]]:
    """Return an on_disk callback that calls *action* once, while the first disk is read."""
    left = [action]

    def on_disk(label: str, size: int) -> Callable[[int], None]:
        if left:
            left.pop()()
        return lambda count: None

    return on_disk


def after_the_reads_of(
    disk: str, action: Callable[[], object]
) -> Callable[[str, int], Callable[[int], None]]:
    """Return an on_disk callback that calls *action* when *disk* has been read."""

    def on_disk(label: str, size: int) -> Callable[[int], None]:
        left = [size]

        def progress(count: int) -> None:
            left[0] -= count
            if label == disk and left[0] == 0:
                action()

        return progress

    return on_disk


def points_of(lab: Lab) -> int:
    return len(list((lab.repository / "points").glob("*.state")))


def stale_run(lab: Lab) -> str:
    """Leave a snapshot that could not be removed; return its name."""
    lab.sim.do.on_call("RemoveSnapshot_Task", fault="vmodl.fault.SystemError", times=100)
    lab.ingest()
    lab.sim.do.clear_rules()
    (name,) = lab.snapshots()
    return name


def remove(lab: Lab, name: str) -> None:
    machine = next(listed for listed in lab.sim.do.vms() if listed["name"] == VM)
    (snapshot,) = (entry for entry in machine["snapshots"] if entry["name"] == name)
    lab.sim.do.remove_snapshot(snapshot["id"])


def test_a_snapshot_that_a_user_takes_on_top_of_ours_stays(beside: Lab) -> None:
    outcome = beside.ingest(on_disk=during(lambda: beside.sim.do.snapshot(VM, "theirs")))

    assert beside.snapshots() == ["theirs"]
    beside.assert_true(outcome.manifest)


def test_a_snapshot_on_top_of_a_stale_one_stays(beside: Lab) -> None:
    ours = stale_run(beside)
    beside.sim.do.snapshot(VM, "theirs")
    outcome = beside.ingest()

    assert f"removed the snapshot {ours} of an interrupted run" in outcome.notes
    assert beside.snapshots() == ["theirs"]
    assert beside.run_records() == []


@pytest.mark.parametrize("name", [OTHERS, "cbtfs-nightly", "cbtfs-stun-by-hand"])
def test_a_snapshot_without_a_record_here_stays(beside: Lab, name: str) -> None:
    """Even with a name of cbtfs: it may belong to a run on another repository."""
    beside.sim.do.snapshot(VM, name)
    outcome = beside.ingest()

    assert beside.snapshots() == [name]
    assert not any("removed" in note for note in outcome.notes)
    beside.assert_true(outcome.manifest)


def test_a_snapshot_of_this_repository_without_a_record_stays(beside: Lab) -> None:
    ours = stale_run(beside)
    beside.ingest()
    name = ours[: -len("0" * 32)] + "0" * 32
    beside.sim.do.snapshot(VM, name)
    beside.ingest()

    assert beside.snapshots() == [name]


def test_a_stale_runs_snapshot_that_appears_late_is_removed(beside: Lab) -> None:
    """The host was still taking it at the first look of the next run."""
    ours = stale_run(beside)
    remove(beside, ours)
    outcome = beside.ingest(on_disk=during(lambda: beside.sim.do.snapshot(VM, ours)))

    assert beside.snapshots() == []
    assert beside.run_records() == []
    beside.assert_true(outcome.manifest)


def test_a_stale_runs_record_stays_while_its_snapshot_cannot_be_removed(beside: Lab) -> None:
    ours = stale_run(beside)
    remove(beside, ours)

    def appear() -> None:
        beside.sim.do.snapshot(VM, ours)
        beside.sim.do.on_call("RemoveSnapshot_Task", fault="vmodl.fault.SystemError", times=100)

    beside.ingest(on_disk=during(appear))
    beside.sim.do.clear_rules()
    assert ours in beside.snapshots()
    assert len(beside.run_records()) >= 2

    beside.ingest()
    assert beside.snapshots() == []
    assert beside.run_records() == []


def test_a_snapshot_removed_after_the_last_read_costs_the_point(beside: Lab) -> None:
    """The chain of the disk may have changed before the last bytes were read."""
    before = points_of(beside)
    stop = threading.Event()

    def lose() -> None:
        stop.set()
        (name,) = beside.snapshots()
        remove(beside, name)

    with pytest.raises(SourceUnavailable, match="was removed while"):
        beside.ingest(on_disk=after_the_reads_of("Hard disk 2", lose))

    assert stop.is_set()
    assert points_of(beside) == before


def test_an_interrupt_after_a_whole_disk_makes_no_partial_point(beside: Lab) -> None:
    before = points_of(beside)
    stop = threading.Event()
    on_disk = after_the_reads_of("Hard disk 1", lambda: None)

    def interrupt(label: str, size: int) -> Callable[[int], None]:
        if label == "Hard disk 2":
            stop.set()
        return on_disk(label, size)

    with pytest.raises(SourceUnavailable, match="interrupted"):
        beside.ingest(on_disk=interrupt, stop=stop, allow_partial=True)

    assert points_of(beside) == before
    assert beside.snapshots() == []


def test_an_old_snapshot_after_a_whole_disk_makes_no_partial_point(
    beside: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = points_of(beside)
    hours = [0.0]
    make = Watch.__init__

    def with_clock(self: Watch, stop: threading.Event, max_age: float | None) -> None:
        make(self, stop, max_age, lambda: hours[0] * 3600)

    def wait(label: str, size: int) -> Callable[[int], None]:
        if label == "Hard disk 2":
            hours[0] += 5
        return lambda count: None

    monkeypatch.setattr(Watch, "__init__", with_clock)
    with pytest.raises(SourceUnavailable, match="max-snapshot-age"):
        beside.ingest(on_disk=wait, max_snapshot_age=4 * 3600.0, allow_partial=True)

    assert points_of(beside) == before
    assert beside.snapshots() == []
