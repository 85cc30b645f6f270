"""The state machine of a watch, against an oracle: events applied to a copy give the full state."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.watch.events import Event
from cbtfs.core.watch.facts import DiskFact, Hardware, SnapshotFact, SnapshotTree, VmFacts
from cbtfs.core.watch.tracker import (
    GRACE_SECONDS,
    HostUpdate,
    TaskLeft,
    TaskUpdate,
    Tracker,
    Update,
    VmLeft,
    VmUpdate,
)

WHOLE = VmFacts(
    name="web1",
    power="poweredOn",
    connection="connected",
    host="host-1",
    home="ds1",
    snapshots=SnapshotTree(),
    hardware=Hardware((DiskFact("uuid:1", "Hard disk 1", 100, "ds1", "", "a"),)),
    is_tracking=True,
    notes="n",
    guest="g",
    version="vmx-19",
)


@dataclass
class Clock:
    """A clock that tests set."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Watched:
    """A tracker that knows one VM, with its clock."""

    clock: Clock = field(default_factory=Clock)
    vm: str = "vm-1"

    def __post_init__(self) -> None:
        self.tracker = Tracker(self.clock)
        assert self.settle(VmUpdate(self.vm, WHOLE)) == []

    def settle(self, *updates: Update) -> list[Event]:
        self.tracker.apply(updates)
        return self.tracker.settle()

    def change(self, *updates: Update, **facts: Any) -> list[tuple[str, Any]]:
        """Return kind and first member of the events after a change of facts."""
        events = self.settle(*updates, VmUpdate(self.vm, VmFacts(**facts)))
        return [(event.kind, next(iter(event.members.values()), None)) for event in events]


def tree(*names: str, current: str | None = None) -> SnapshotTree:
    entries = tuple(SnapshotFact(name, name, name.startswith("own")) for name in names)
    return SnapshotTree(entries, current or (names[-1] if names else None))


def disks(*sizes: int, **parts: Any) -> Hardware:
    return Hardware(
        tuple(
            DiskFact(f"uuid:{n}", f"Hard disk {n}", size, **{"datastore": "ds1", **parts})
            for n, size in enumerate(sizes, 1)
        )
    )


def test_each_kind_of_change_is_one_event() -> None:
    watched = Watched()

    assert watched.change(power="poweredOff") == [("power", "poweredOff")]
    assert watched.change(host="host-2") == [("migration", "host-2")]
    assert watched.change(snapshots=tree("a")) == [("snapshot", "taken")]
    assert watched.change(snapshots=tree("a", "b")) == [("snapshot", "taken")]
    assert watched.change(snapshots=tree("a", "b", current="a")) == [("snapshot", "reverted")]
    assert watched.change(snapshots=tree("b")) == [("snapshot", "removed")]
    assert watched.change(name="web2", notes="m") == [("reconfiguration", ["name", "notes"])]
    assert watched.change(is_tracking=False) == [("tracking", "disabled")]


def test_the_current_snapshot_that_is_removed_is_no_revert() -> None:
    watched = Watched()
    watched.change(snapshots=tree("a", "b"))

    assert watched.change(snapshots=tree("a")) == [("snapshot", "removed")]


def test_disks_are_compared_by_identity() -> None:
    watched = Watched()
    watched.change(hardware=disks(100, epoch="a"))

    assert watched.change(hardware=disks(100, 50, epoch="a")) == [("disk", "added")]
    assert watched.change(hardware=disks(100, 60, epoch="a")) == [("disk", "resized")]
    moved = watched.change(hardware=disks(100, 60, epoch="a", datastore="ds2"))
    assert moved == [("migration", "host-1")]
    reset = watched.change(hardware=disks(100, 60, epoch="b", datastore="ds2"))
    assert reset == [("tracking", "reset")]
    lost = watched.change(hardware=disks(100, 60, datastore="ds2"))
    assert lost == [("tracking", "disabled")]
    assert watched.change(hardware=disks(100, datastore="ds2")) == [("disk", "removed")]


def test_snapshots_of_cbtfs_are_no_events() -> None:
    watched = Watched()

    assert watched.change(snapshots=tree("own")) == []
    assert watched.change(snapshots=tree("own", "theirs")) == [("snapshot", "taken")]
    assert watched.change(snapshots=tree("theirs")) == []


def test_names_of_hosts_replace_their_ids() -> None:
    watched = Watched()
    hosts = HostUpdate("host-1", "esx1"), HostUpdate("host-2", "esx2")
    (event,) = watched.settle(*hosts, VmUpdate("vm-1", VmFacts(host="host-2")))

    assert event.members["host_before"] == "esx1"
    assert event.members["host"] == "esx2"


def test_tracking_that_cbtfs_switches_is_no_event() -> None:
    watched = Watched()
    task = TaskUpdate("task-1", "vm-1", is_own=True, is_over=False)

    assert watched.change(task, is_tracking=False) == []
    watched.settle(replace(task, is_over=True))
    assert watched.change(replace(task, id="task-2"), is_tracking=True) == []
    assert watched.change(is_tracking=False) == [("tracking", "disabled")]


def test_a_task_that_disappears_explains_changes_for_a_while_only() -> None:
    watched = Watched()
    watched.settle(TaskUpdate("task-1", "vm-1", is_own=True, is_over=False), TaskLeft("task-1"))
    watched.clock.seconds += GRACE_SECONDS + 1

    assert watched.change(is_tracking=False) == [("tracking", "disabled")]


@pytest.mark.parametrize("vm", ["vm-1", "vm-2"])
def test_tasks_of_others_and_of_other_vms_explain_nothing(vm: str) -> None:
    watched = Watched()
    own = TaskUpdate("task-1", vm, is_own=True, is_over=True)
    other = TaskUpdate("task-2", "vm-1", is_own=False, is_over=True)

    assert watched.change(own, other, is_tracking=False) == [("tracking", "disabled")]


def test_a_state_that_the_server_does_not_know_is_not_compared() -> None:
    watched = Watched()

    assert watched.change(connection="disconnected", snapshots=tree("a")) == []
    assert watched.change(power="poweredOff") == []
    changed = watched.change(connection="connected", snapshots=SnapshotTree())
    assert changed == [("power", "poweredOff")]


def test_a_vm_that_leaves_and_returns_is_compared_with_its_last_state() -> None:
    watched = Watched()

    assert [event.kind for event in watched.settle(VmLeft("vm-1"))] == ["left"]
    events = watched.settle(VmUpdate("vm-1", replace(WHOLE, power="suspended")))
    assert [event.kind for event in events] == ["entered", "power"]


def test_vms_that_a_new_state_lacks_have_left() -> None:
    watched = Watched()
    watched.settle(VmUpdate("vm-2", WHOLE))
    watched.tracker.begin()

    events = watched.settle(VmUpdate("vm-2", WHOLE))
    assert events == [Event("left", "vm-1")]


def test_memory_does_not_grow_with_tasks_hosts_and_vms() -> None:
    """A server that invents objects for ever must not fill the memory."""
    watched = Watched()
    for number in range(10_100):
        vm = f"new-{number}"
        watched.settle(
            TaskUpdate(f"task-{number}", "vm-1", is_own=False, is_over=False),
            TaskUpdate(f"stray-{number}", f"stray-{number}", is_own=False, is_over=False),
            HostUpdate(f"host-{number}", "esx"),
            VmUpdate(vm, VmFacts(name="x")),
            VmLeft(vm),
        )
    tracker = watched.tracker

    assert len(tracker._tasks._vm_of) <= 16
    assert len(tracker._hosts) <= 10_000
    assert len(tracker._departed) <= 10_000
    assert tracker.vms == 1


@dataclass
class Model:
    """The full state of a server, and a copy of it that only events change."""

    tracker: Tracker
    vms: dict[str, VmFacts] = field(default_factory=dict)
    sent: dict[str, VmFacts] = field(default_factory=dict)
    """What the filter of this login has reported."""
    copy: dict[str, dict[str, Any]] = field(default_factory=dict)

    def updates(self) -> list[Update]:
        """Return what a server reports: the facts that changed since the last report."""
        updates: list[Update] = [VmLeft(vm) for vm in self.sent if vm not in self.vms]
        for vm, facts in self.vms.items():
            before = self.sent.get(vm, VmFacts())
            changed = {
                name: getattr(facts, name)
                for name in VmFacts.__slots__
                if getattr(facts, name) != getattr(before, name)
            }
            if changed:
                updates.append(VmUpdate(vm, VmFacts(**changed)))
        self.sent = dict(self.vms)
        return updates

    def play(self, events: Sequence[Event]) -> None:
        """Apply events to the copy; each must change it."""
        for event in events:
            before = repr(self.copy)
            self._play(event)
            assert repr(self.copy) != before, event

    def _play(self, event: Event) -> None:
        members = event.members
        if event.kind == "left":
            self.copy[f"gone {event.vm}"] = self.copy.pop(event.vm)
            return
        if event.kind == "entered":
            known = self.copy.pop(f"gone {event.vm}", None)
            self.copy[event.vm] = known or summary(self.vms[event.vm])
            return
        vm = self.copy[event.vm]
        match event.kind:
            case "power":
                assert vm["power"] == members["before"]
                vm["power"] = members["state"]
            case "snapshot" if members["action"] == "taken":
                vm["snapshots"] = sorted({*vm["snapshots"], members["snapshot_id"]})
            case "snapshot" if members["action"] == "removed":
                vm["snapshots"].remove(members["snapshot_id"])
            case "snapshot":
                vm["reverts"] += 1
            case "migration":
                vm["host"] = members["host"]
            case "disk" if members["action"] == "removed":
                assert vm["disks"].pop(members["disk"]) == members["size_before"]
            case "disk":
                assert vm["disks"].get(members["disk"]) == members["size_before"]
                vm["disks"][members["disk"]] = members["size"]
            case "tracking":
                vm["tracking"] = members["action"] == "enabled"
            case "reconfiguration":
                vm["settings"] += 1


def summary(facts: VmFacts) -> dict[str, Any]:
    """Return the parts of a state that events carry."""
    assert facts.snapshots is not None
    assert facts.hardware is not None
    return {
        "power": facts.power,
        "host": facts.host,
        "snapshots": sorted(e.id for e in facts.snapshots.entries if not e.is_own),
        "disks": {disk.label: disk.size for disk in facts.hardware.disks},
        "tracking": facts.is_tracking,
        "reverts": 0,
        "settings": 0,
    }


STATES = st.builds(
    VmFacts,
    name=st.just("vm"),
    power=st.sampled_from(["poweredOn", "poweredOff", "suspended"]),
    connection=st.just("connected"),
    host=st.sampled_from(["host-1", "host-2"]),
    home=st.just("ds1"),
    snapshots=st.lists(st.sampled_from(["a", "b", "own-c", "own-d"]), unique=True, max_size=4).map(
        lambda names: tree(*names)
    ),
    hardware=st.lists(st.sampled_from([10, 20]), max_size=3).map(lambda sizes: disks(*sizes)),
    is_tracking=st.booleans(),
    notes=st.sampled_from(["", "note"]),
)
CHANGES = st.tuples(st.sampled_from(["vm-1", "vm-2", "vm-3"]), st.none() | STATES)
ROUNDS = st.lists(
    st.tuples(
        st.lists(CHANGES, max_size=4),
        st.sampled_from(["whole", "truncated", "twice", "new-login", "lost-in-the-middle"]),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(st.dictionaries(st.sampled_from(["vm-1", "vm-2"]), STATES, min_size=1), ROUNDS)
def test_events_lead_from_the_first_state_to_the_last(
    first: dict[str, VmFacts], rounds: list[tuple[list[tuple[str, VmFacts | None]], str, int]]
) -> None:
    model = Model(Tracker(Clock()), dict(first))
    model.tracker.begin()
    model.tracker.apply(model.updates())
    assert model.tracker.settle() == []
    model.copy = {vm: summary(facts) for vm, facts in first.items()}
    for changes, how, cut in rounds:
        for vm, facts in changes:
            if facts is None:
                model.vms.pop(vm, None)
            else:
                model.vms[vm] = facts
        if how in ("new-login", "lost-in-the-middle"):
            if how == "lost-in-the-middle":
                model.tracker.apply(model.updates()[:cut])
            model.sent = {}
            model.tracker.begin()
        updates = model.updates()
        model.tracker.apply(updates[:cut])
        if how == "twice":
            model.tracker.apply([update for update in updates if isinstance(update, VmUpdate)])
        model.tracker.apply(updates[cut:] if how == "truncated" else updates)
        model.play(model.tracker.settle())

        shown = {vm: {**state, "reverts": 0, "settings": 0} for vm, state in model.copy.items()}
        present = {vm: state for vm, state in shown.items() if not vm.startswith("gone")}
        assert present == {vm: summary(facts) for vm, facts in model.vms.items()}
        assert model.tracker.settle() == []
