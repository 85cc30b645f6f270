"""`cbtfs watch` against the simulator: updates of all forms, lost sessions, restarts."""

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.errors import AccessDenied, UsageError
from cbtfs.source.vsphere.cbt.switch import enable, reset
from cbtfs.source.vsphere.inventory.vms import list_vms, select
from cbtfs.source.vsphere.watch.follow import Follower, VmEvent, WatchTimes
from cbtfs.source.vsphere.watch.reading import same_user
from tests.scenarios.vsphere.chances import STORES
from tests.scenarios.vsphere.site import MIB, QUICK, Lab, new_lab
from tools.vsim import DatastoreEntry, DiskEntry, HostEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate

NAMES: Final = ("web1", "web2", "db1")
TIMES: Final = WatchTimes(select=0.05, pause=0.01)
POLLING: Final = replace(TIMES, poll=0.01)


UPDATES: Final = int(os.environ.get("CBTFS_WATCH_UPDATES", "100"))
SECONDS: Final = 30 + UPDATES / 20
"""Time for the events of one step, on a busy machine."""


@dataclass
class Seen:
    """The events of a watch in another thread."""

    follower: Follower | None = None
    events: list[VmEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, events: Sequence[VmEvent]) -> None:
        with self.changed:
            self.events += events
            self.changed.notify_all()

    def wait(self, is_there: Callable[[list[VmEvent]], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: is_there(self.events), SECONDS), self.short()

    def wait_for(self, *expected: str) -> None:
        """Wait for the events, and assert that there are no others."""
        self.wait(lambda events: len(self.short()) >= len(expected))
        assert sorted(self.short()) == sorted(expected)

    def wait_connected(self, times: int) -> None:
        self.wait(lambda events: sum(event.kind == "connected" for event in events) >= times)

    def short(self) -> list[str]:
        """Return the events of VMs as text: name, kind, and what happened."""
        texts = []
        for event in self.events:
            if event.vm is not None:
                members = event.members
                what = members.get("action", members.get("state", members.get("changed", "")))
                texts.append(f"{event.name} {event.kind} {what}".rstrip())
        return texts


@pytest.fixture
def three(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A site with three VMs without tracking, each with a small disk."""
    machines = tuple(MachineEntry(name, disks=(DiskEntry(size=MIB),)) for name in NAMES)
    inventory = Inventory(
        machines=machines,
        datastores=tuple(map(DatastoreEntry, STORES)),
        hosts=(HostEntry("esx1"), HostEntry("esx2")),
    )
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.retry_policy = replace(QUICK, away=60.0, knock=0.02)
        yield lab


@contextmanager
def watching(lab: Lab, *names: str, times: WatchTimes = TIMES) -> Iterator[Seen]:
    """Follow VMs in a thread, from the moment at which their state is known."""
    seen, stop = Seen(), threading.Event()
    with lab.session(stop) as session, ThreadPoolExecutor() as pool:
        follower = Follower(session, names or NAMES, stop, seen.add, times)
        run = pool.submit(follower.run)
        try:
            seen.wait_connected(1)
            yield seen
        finally:
            stop.set()
            while not run.done():
                follower.cancel()
        run.result()


def change_everything(lab: Lab) -> list[str]:
    """Change each of the watched properties; return the events that follow."""
    do = lab.sim.do
    do.snapshot("web1", "before the upgrade")
    do.add_disk("web1", {"size": "1M"})
    do.power("web2", "off")
    do.set_cbt("db1", True)
    do.rename("web2", "web3")
    return [
        "web1 snapshot taken",
        "web1 disk added",
        "web3 power poweredOff",
        "db1 tracking enabled",
        "web3 reconfiguration ['name']",
    ]


@pytest.mark.parametrize("times", [TIMES, POLLING], ids=["waiting", "polling"])
def test_changes_are_reported_and_the_first_state_is_not(three: Lab, times: WatchTimes) -> None:
    three.sim.do.snapshot("web1", "earlier")
    with watching(three, times=times) as seen:
        seen.wait_for(*change_everything(three))
        by_kind = {event.kind: event for event in seen.events}

        assert seen.events[0].members["vms"] == 3
        assert by_kind["snapshot"].members["snapshot"] == "before the upgrade"
        assert by_kind["disk"].members["size"] == MIB
        assert by_kind["power"].members["before"] == "poweredOn"
        assert by_kind["reconfiguration"].vm is not None
        assert by_kind["reconfiguration"].vm.path == "/DC0/vm/web3"
        calls = set(three.sim.do.calls())
        assert ("CheckForUpdates" in calls) == (times is POLLING)


@pytest.mark.parametrize("form", ["truncated", "nested"])
def test_other_forms_of_updates_give_the_same_events(three: Lab, form: str) -> None:
    knob = {"updates_per_set": 1} if form == "truncated" else {"nested_updates": "always"}
    three.sim.knobs.change("session", **knob)
    with watching(three) as seen:
        seen.wait_for(*change_everything(three))


@pytest.mark.parametrize("ended_as", ["fault", "missing-set"])
def test_no_event_is_lost_or_repeated_when_the_session_ends(three: Lab, ended_as: str) -> None:
    three.sim.knobs.change("session", ended_as=ended_as)
    with watching(three) as seen:
        three.sim.do.snapshot("db1", "one")
        seen.wait_for("db1 snapshot taken")
        with three.sim.world.changing():  # the follower cannot read in between
            three.sim.do.end_sessions()
            expected = change_everything(three)
        seen.wait_connected(2)
        seen.wait_for("db1 snapshot taken", *expected)


def test_no_event_is_lost_or_repeated_when_the_vcenter_restarts(three: Lab) -> None:
    with watching(three) as seen:
        three.sim.do.restart(0.2, 0.1)
        expected = change_everything(three)
        three.sim.do.remove_vm("db1")
        three.sim.do.wait_restart()
        seen.wait_connected(2)
        expected.remove("db1 tracking enabled")
        seen.wait_for("db1 left", *expected)


def test_a_lost_reply_costs_no_event(three: Lab) -> None:
    three.sim.knobs.change("session", updates_per_set=1)
    three.sim.do.on_call("WaitForUpdatesEx", action="lost-reply", at=5, times=2)
    with watching(three) as seen:
        seen.wait_for(*change_everything(three))


def test_vms_that_match_later_enter_and_removed_ones_leave(three: Lab) -> None:
    with watching(three, "web*") as seen:
        three.sim.do.add_vm({"name": "web9", "disk": [{"size": "1M"}]})
        three.sim.do.add_vm({"name": "other", "disk": [{"size": "1M"}]})
        seen.wait_for("web9 entered")
        three.sim.do.power("web9", "off")
        seen.wait_for("web9 entered", "web9 power poweredOff")
        three.sim.do.rename("web1", "aside")
        three.sim.do.remove_vm("web9")
        seen.wait_for(
            "web9 entered",
            "web9 power poweredOff",
            "aside reconfiguration ['name']",
            "web9 left",
        )


def test_an_unreadable_property_is_no_event_and_is_compared_when_it_is_readable(
    three: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    with watching(three) as seen:
        three.sim.knobs.change("session", unreadable="snapshot")
        three.sim.do.snapshot("web1", "unread")
        three.sim.do.power("web1", "off")
        seen.wait_for("web1 power poweredOff")
        assert "cannot read snapshot of vm-101: NoPermission" in caplog.text
        with three.sim.world.changing():
            three.sim.knobs.change("session", unreadable="")
        seen.wait_for("web1 power poweredOff", "web1 snapshot taken")


def test_a_vm_without_its_host_is_compared_when_it_returns(three: Lab) -> None:
    host = "esx1"
    with watching(three) as seen:
        three.sim.do.host(host, connection="notResponding")
        three.sim.do.snapshot("web1", "meanwhile")
        three.sim.do.power("web2", "off")
        three.sim.do.host(host, connection="connected")
        seen.wait_for("web1 snapshot taken", "web2 power poweredOff")


def test_a_revert_is_an_event_of_the_snapshot_and_of_the_tracking(three: Lab) -> None:
    three.sim.do.set_cbt("web1", True)
    first = three.sim.do.snapshot("web1", "first")
    three.sim.do.snapshot("web1", "second")
    with watching(three) as seen:
        three.sim.do.revert(first)
        seen.wait_for("web1 snapshot reverted", "web1 tracking reset", "web1 power poweredOff")


def test_a_storage_migration_names_the_files_that_moved(three: Lab) -> None:
    with watching(three) as seen:
        three.sim.do.relocate("web1", "fast")
        seen.wait_for("web1 migration")
        moved = seen.events[-1].members["moved"]
        assert [item["file"] for item in moved] == ["configuration", "Hard disk 1"]
        assert {item["datastore"] for item in moved} == {"fast"}
        assert seen.events[-1].members["host_before"] is None


def test_a_migration_to_another_host_names_both_hosts(three: Lab) -> None:
    with watching(three) as seen:
        three.sim.do.vmotion("web1", "esx2")
        seen.wait_for("web1 migration")
        members = seen.events[-1].members
        assert (members["host_before"], members["host"]) == ("esx1", "esx2")


def test_changes_that_cbtfs_makes_are_no_events(three: Lab) -> None:
    """A capture enables tracking and takes a snapshot; 'cbt reset' disables and enables it."""
    with watching(three) as seen:
        three.ingest("web1")
        three.ingest("web1")
        with three.session() as session:
            (vm,) = select(list_vms(session), "web2")
            enable(session, vm, lambda: False)
            reset(session, vm, lambda: False)
        three.sim.do.power("db1", "off")
        seen.wait_for("db1 power poweredOff")


def test_names_without_a_vm_are_refused_unless_another_name_has_one(three: Lab) -> None:
    with three.session() as session:
        stop = threading.Event()
        follower = Follower(session, ["nobody"], stop, lambda events: None)
        with pytest.raises(UsageError, match="no VM 'nobody'"):
            follower.select()
        follower = Follower(session, ["nobody", "web1"], stop, lambda events: None)
        assert [name for name, _ in follower.select()] == ["nobody"]


@pytest.mark.parametrize(
    ("knob", "message"),
    [("always_truncated", "did not complete the updates"), ("parent_cycle", "contained itself")],
)
def test_a_hostile_server_does_not_end_the_watch(
    three: Lab, knob: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    three.retry_policy = replace(three.retry_policy, max_updates=20)
    with watching(three) as seen:
        three.sim.knobs.change("answer", **{knob: True})
        three.sim.do.end_sessions()
        while message not in caplog.text:
            three.sim.do.calls(clear=True)
            three.sim.do.wait_call("RetrievePropertiesEx")
        three.sim.knobs.change("answer", **{knob: False})
        three.sim.do.power("web1", "off")
        seen.wait_for("web1 power poweredOff")


def test_a_password_that_is_no_longer_valid_ends_the_watch(three: Lab) -> None:
    stop = threading.Event()
    with three.session(stop) as session:
        seen = Seen()
        follower = Follower(session, NAMES, stop, seen.add, TIMES)
        three.sim.do.on_call("Login", action="fault", fault="vim.fault.InvalidLogin")
        three.sim.do.on_call("WaitForUpdatesEx", action="expire-session", at=2)
        with pytest.raises(AccessDenied, match="rejects the user"):
            follower.run()


@pytest.mark.limit(300 + UPDATES / 5)
def test_many_updates_and_a_restart_are_exactly_the_changes_that_were_made(three: Lab) -> None:
    """CBTFS_WATCH_UPDATES=10000 follows 1,000 VMs."""
    total = UPDATES
    names = [f"many{number}" for number in range(total // 10)]
    for name in names:
        three.sim.do.add_vm({"name": name, "disk": [{"size": "1M"}]})
    states = dict.fromkeys(names, "poweredOn")
    shown = dict(states)
    dice = random.Random(16)
    with watching(three, "many*") as seen:
        for number in range(1, 21):
            if number == 10:
                three.sim.do.restart(0.1)
            with three.sim.world.changing():
                for name in dice.sample(names, total // 20):
                    is_on = states[name] == "poweredOn"
                    states[name] = "poweredOff" if is_on else "poweredOn"
                    three.sim.do.power(name, "off" if is_on else "on")
            expected = number * (total // 20)
            seen.wait(lambda events, n=expected: len(seen.short()) >= n)  # type: ignore[misc]
        for event in seen.events:
            if event.vm is not None:
                assert shown[event.name] == event.members["before"]
                shown[event.name] = event.members["state"]

    assert len(seen.short()) == 20 * (total // 20)
    assert shown == states


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("VSPHERE.LOCAL\\backup", "backup@vsphere.local", True),
        ("Backup", "backup@vsphere.local", True),
        ("CORP\\backup", "backup@vsphere.local", False),
        ("VSPHERE.LOCAL\\admin", "backup@vsphere.local", False),
        ("", "backup@vsphere.local", False),
    ],
)
def test_forms_of_user_names(one: str, other: str, is_same: Any) -> None:
    assert same_user(one, other) == is_same
