"""`cbtfs cbt`: status, the procedures of enable and reset, and refusals."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from cbtfs.cli.main import main
from cbtfs.source.vsphere.cbt.tracking import _TRACKABLE
from cbtfs.source.vsphere.snapshots.stun import whose
from tests.make_points import SIGNALS
from tests.scenarios.vsphere.command import KILLS, ROOT
from tests.scenarios.vsphere.server import at, call
from tests.scenarios.vsphere.site import MIB, VM, Lab
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate

Capture = pytest.CaptureFixture[str]


def machine(name: str, *disks: DiskEntry, **parts: Any) -> MachineEntry:
    return MachineEntry(name, disks=disks or (DiskEntry(size=MIB),), **parts)


MACHINES = (
    machine(VM, DiskEntry(size=MIB), DiskEntry(size=MIB)),
    machine("quiet", power="off"),
    machine("old", hardware=4, power="off"),
    machine("mould", template=True),
    machine(
        "mixed",
        DiskEntry(size=MIB),
        DiskEntry(size=MIB, mode="independent_persistent"),
        DiskEntry(size=MIB, backing="sparse1"),
        DiskEntry(size=MIB, backing="rdm-virtual"),
    ),
    machine("raw", DiskEntry(size=MIB), DiskEntry(size=MIB, backing="rdm-physical")),
)


@pytest.fixture
def sim(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    with Simulator(Inventory(machines=MACHINES), certificate=certificate) as made:
        yield made


def tasks(sim: Simulator) -> list[str]:
    """Return the tasks that clients started."""
    return [call.removesuffix("_Task") for call in sim.do.calls() if call.endswith("_Task")]


def snapshots(sim: Simulator, vm: str = VM) -> list[str]:
    document = next(listed for listed in sim.do.vms() if listed["name"] == vm)
    return [snapshot["name"] for snapshot in document["snapshots"]]


def ids(sim: Simulator, vm: str = VM) -> list[str | None]:
    document = next(listed for listed in sim.do.vms() if listed["name"] == vm)
    return [disk["change_id"] for disk in document["disks"]]


STUN = ["CreateSnapshot", "RemoveSnapshot"]
ENABLE = ["ReconfigVM", *STUN]


# status


def test_status_changes_nothing_if_tracking_is_off(sim: Simulator, capsys: Capture) -> None:
    code, document, _ = call(sim, capsys, "cbt", "status", VM)

    assert code == 0
    (vm,) = document["vms"]
    assert (vm["supported"], vm["enabled"], vm["pending"], vm["obstacle"]) == (
        True, False, False, None,
    )  # fmt: skip
    assert [disk["reason"] for disk in vm["disks"]] == ["change tracking is off"] * 2
    assert tasks(sim) == []


def test_status_shows_pending_and_ending(sim: Simulator, capsys: Capture) -> None:
    sim.do.set_cbt(VM, True)
    _, pending, _ = call(sim, capsys, "cbt", "status", VM)
    sim.do.stun(VM)
    _, on, _ = call(sim, capsys, "cbt", "status", VM)
    sim.do.set_cbt(VM, False)
    _, ending, _ = call(sim, capsys, "cbt", "status", VM)

    flags = [
        (status["vms"][0]["enabled"], status["vms"][0]["pending"])
        for status in (pending, on, ending)
    ]
    assert flags == [(True, True), (True, False), (False, True)]
    assert "begins at the next stun" in pending["vms"][0]["disks"][0]["reason"]
    assert [disk["tracked"] for disk in on["vms"][0]["disks"]] == [True, True]
    assert [disk["change_id"] for disk in on["vms"][0]["disks"]] == ids(sim)


def test_status_shows_why_a_disk_is_not_tracked(sim: Simulator, capsys: Capture) -> None:
    sim.do.set_cbt("mixed", True)
    sim.do.stun("mixed")
    _, document, _ = call(sim, capsys, "cbt", "status", "mixed", "old", "mould")
    mixed, old, mould = document["vms"]

    first, independent, version1, mapped = mixed["disks"]
    assert (first["tracked"], mapped["tracked"]) == (True, True)
    assert "independent_persistent" in independent["reason"]
    assert "SparseVer1BackingInfo cannot be tracked" in version1["reason"]
    assert (independent["can_track"], version1["can_track"]) == (False, False)
    assert old["supported"] is False
    assert "vmx-04 cannot track" in old["disks"][0]["reason"]
    assert "upgrade it to vmx-07" in old["obstacle"]
    assert "convert it to a VM" in mould["obstacle"]


@pytest.mark.parametrize("vm", [VM, "quiet"])
def test_the_setting_of_a_disk_is_shown_and_changed(
    sim: Simulator, capsys: Capture, vm: str
) -> None:
    """The flag is already on, so setting it again changes nothing."""
    sim.do.set_cbt(vm, True)
    sim.do.set_disk_tracking(vm, 2000, False)
    if vm == VM:
        sim.do.stun(vm)
    _, document, _ = call(sim, capsys, "cbt", "status", vm)
    disk = document["vms"][0]["disks"][0]
    assert (disk["setting"], disk["tracked"]) == (False, False)
    assert "scsi0:0.ctkEnabled is not TRUE" in disk["reason"]
    code, switched, _ = call(sim, capsys, "cbt", "enable", vm)

    assert code == 0
    assert switched["vms"][0]["done"][0] == "set to TRUE: scsi0:0.ctkEnabled"
    assert tasks(sim) == (ENABLE if vm == VM else ["ReconfigVM"])
    assert None not in ids(sim, vm)


def test_the_setting_of_a_disk_needs_a_privilege_that_is_named(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    users = (UserEntry("backup", "vsim", denied=("VirtualMachine.Config.AdvancedConfig",)),)
    with Simulator(Inventory(users=users, machines=MACHINES[1:2]), certificate=certificate) as sim:
        sim.do.set_cbt("quiet", True)
        sim.do.set_disk_tracking("quiet", 2000, False)
        code, _, words = call(sim, capsys, "cbt", "enable", "quiet")

    assert code == 31
    assert "lacks the privilege VirtualMachine.Config.AdvancedConfig" in words


def test_status_of_many_reads_in_pages(sim: Simulator, capsys: Capture) -> None:
    for number in range(230):
        sim.do.add_vm({"name": f"many{number}", "power": "off", "disk": [{"size": "1M"}]})
    sim.do.calls(clear=True)
    code, document, _ = call(sim, capsys, "cbt", "status", "many*")

    assert code == 0
    assert len(document["vms"]) == 230
    assert sim.do.calls().count("RetrievePropertiesEx") == 1 + 3


def test_without_json_a_table_is_printed(sim: Simulator, capsys: Capture) -> None:
    sim.do.snapshot(VM, "by hand")
    code = main(["cbt", "status", *at(sim), VM, "none"])
    out, err = capsys.readouterr()

    assert code == 3
    assert re.search(r"^web1 +off +Hard disk 2 +none +none +change tracking is off$", out, re.M)
    assert "snapshot (VMware KB 1020128): by hand (not of cbtfs: remove it" in err
    assert "no VM 'none'" in err


# enable


def test_enable_of_a_running_vm_stuns_it(sim: Simulator, capsys: Capture) -> None:
    code, document, _ = call(sim, capsys, "cbt", "enable", VM)

    assert code == 0
    assert tasks(sim) == ENABLE
    assert None not in ids(sim)
    assert snapshots(sim) == []
    assert all(disk["tracked"] for disk in document["vms"][0]["disks"])
    assert document["vms"][0]["done"][0] == "change tracking enabled"


def test_enable_of_a_vm_that_is_off_needs_no_stun(sim: Simulator, capsys: Capture) -> None:
    code, _, _ = call(sim, capsys, "cbt", "enable", "quiet")

    assert code == 0
    assert tasks(sim) == ["ReconfigVM"]
    assert None not in ids(sim, "quiet")


def test_enable_does_nothing_if_tracking_is_on(sim: Simulator, capsys: Capture) -> None:
    call(sim, capsys, "cbt", "enable", VM)
    sim.do.snapshot(VM, "theirs")
    sim.do.calls(clear=True)
    code, document, words = call(sim, capsys, "cbt", "enable", VM)

    assert code == 0
    assert tasks(sim) == []
    assert document["vms"][0]["done"] == []
    assert "nothing to do" in words


def test_enable_only_stuns_if_tracking_is_pending(sim: Simulator, capsys: Capture) -> None:
    sim.do.set_cbt(VM, True)
    assert call(sim, capsys, "cbt", "enable", VM)[0] == 0

    assert tasks(sim) == STUN
    assert None not in ids(sim)


@pytest.mark.parametrize("verb", ["enable", "reset"])
@pytest.mark.parametrize(
    ("vm", "trouble", "words"),
    [
        (VM, {"snapshot": {"name": "by hand"}}, "by hand (not of cbtfs: remove it"),
        (VM, {"consolidation": {}}, "consolidate them"),
        (VM, {"power": {"state": "suspend"}}, "resume it, or power it off"),
        (VM, {"ask": {"question": "moved or copied?"}}, "'moved or copied?': answer it"),
        ("old", {}, "power it off and upgrade it to vmx-07 or newer"),
        ("mould", {}, "convert it to a VM, or exclude it"),
        ("raw", {}, "Hard disk 2: it is a raw device mapping"),
    ],
)
def test_a_vm_that_cannot_be_switched_is_refused(
    sim: Simulator, capsys: Capture, verb: str, vm: str, trouble: dict[str, Any], words: str
) -> None:
    for operation, arguments in trouble.items():
        if operation == "consolidation":
            sim.do.set_knobs("snapshot", needs_consolidation=True)
            sim.do.remove_snapshot(sim.do.snapshot(vm, "half removed"))
        else:
            sim.do.find_operation(operation)(vm, **arguments)
    sim.do.calls(clear=True)
    code, document, said = call(sim, capsys, "cbt", verb, vm)

    assert code == 30
    assert words in document["failed"][0]["error"]
    assert document["failed"][0]["exit"] == 30
    assert words in said
    assert tasks(sim) == []


def test_failures_are_kept_apart(sim: Simulator, capsys: Capture) -> None:
    sim.do.snapshot("mixed", "theirs")
    code, document, _ = call(
        sim, capsys, "cbt", "enable", "--jobs", "3", VM, "quiet", "mixed", "none"
    )

    assert code == 3
    assert [vm["vm"] for vm in document["vms"]] == [VM, "quiet"]
    assert {vm["vm"]: vm["exit"] for vm in document["failed"]} == {"mixed": 30, "none": 2}


def test_a_missing_privilege_is_named(
    certificate: Certificate, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = UserEntry("reader", "vsim", ("System.*", "VirtualMachine.State.*"))
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    with Simulator(Inventory(users=(user,), machines=MACHINES), certificate=certificate) as sim:
        code, document, _ = call(sim, capsys, "cbt", "enable", VM)

        assert code == 31
        assert "VirtualMachine.Config.ChangeTracking" in document["failed"][0]["error"]


def test_a_disk_that_stays_untracked_is_reported(sim: Simulator, capsys: Capture) -> None:
    sim.do.set_disk_cbt(VM, 2001, no_change_id=True)
    code, document, _ = call(sim, capsys, "cbt", "enable", VM)

    assert code == 3
    assert document["vms"][0]["warnings"][0].startswith("Hard disk 2 is not tracked")


# reset


def epochs(sim: Simulator, vm: str = VM) -> list[str]:
    return [str(change_id).rpartition("/")[0] for change_id in ids(sim, vm)]


def test_reset_of_a_running_vm_is_the_procedure(sim: Simulator, capsys: Capture) -> None:
    call(sim, capsys, "cbt", "enable", VM)
    before = epochs(sim)
    sim.do.calls(clear=True)
    code, document, words = call(sim, capsys, "cbt", "reset", VM)

    assert code == 0
    assert tasks(sim) == [*ENABLE, *ENABLE]
    assert not set(before) & set(epochs(sim))
    assert snapshots(sim) == []
    assert document["vms"][0]["done"][0] == "change tracking disabled"
    assert "the next capture reads all its disks whole" in words


def test_reset_of_a_vm_that_is_off_needs_no_stun(sim: Simulator, capsys: Capture) -> None:
    call(sim, capsys, "cbt", "enable", "quiet")
    before = epochs(sim, "quiet")
    sim.do.calls(clear=True)

    assert call(sim, capsys, "cbt", "reset", "quiet")[0] == 0
    assert tasks(sim) == ["ReconfigVM", "ReconfigVM"]
    assert not set(before) & set(epochs(sim, "quiet"))


def test_after_a_reset_the_next_backup_is_a_correct_full(
    tracked: Lab, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    assert call(tracked.sim, capsys, "cbt", "reset", VM)[0] == 0
    tracked.ingest()
    tracked.ingest()

    assert [point.kind for point in tracked.points] == ["full", "full", "incremental"]
    assert "change tracking was restarted" in tracked.points[1].disks[0].reason
    tracked.assert_all_true()


def test_a_snapshot_that_comes_in_between_stops_a_reset(sim: Simulator, capsys: Capture) -> None:
    call(sim, capsys, "cbt", "enable", VM)
    sim.do.on_call(
        "ReconfigVM_Task",
        action="operation",
        operation="snapshot",
        arguments={"vm": VM, "name": "theirs"},
        at=2,
    )
    sim.do.calls(clear=True)
    code, document, _ = call(sim, capsys, "cbt", "reset", VM)

    assert code == 30
    error = document["failed"][0]["error"]
    assert "theirs (not of cbtfs" in error
    assert "change tracking is disabled now: fix this, then run 'cbtfs cbt enable'" in error
    assert ids(sim) == [None, None]
    sim.do.remove_snapshot("theirs")
    assert call(sim, capsys, "cbt", "enable", VM)[0] == 0


def test_a_lost_reply_does_no_harm(sim: Simulator, capsys: Capture) -> None:
    for method in ("ReconfigVM_Task", "CreateSnapshot_Task", "RemoveSnapshot_Task"):
        sim.do.on_call(method, action="lost-reply")
    code, document, _ = call(sim, capsys, "cbt", "reset", VM)

    assert code == 0, document
    assert snapshots(sim) == []
    assert None not in ids(sim)


def test_disks_that_need_consolidation_after_the_stun_are_consolidated(
    sim: Simulator, capsys: Capture
) -> None:
    sim.do.set_knobs("snapshot", needs_consolidation=True)
    code, _, _ = call(sim, capsys, "cbt", "reset", VM)

    assert code == 0
    assert "ConsolidateVMDisks_Task" in sim.do.calls()


# killed


def killed(sim: Simulator, verb: str, method: str) -> None:
    """Start a command and kill it once the server has received *method*."""
    sim.do.calls(clear=True)
    with subprocess.Popen(
        [sys.executable, "-m", "cbtfs", "cbt", verb, *at(sim), VM],
        cwd=ROOT,
        env={**os.environ, "CBTFS_VSPHERE_PASSWORD": "vsim"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        sim.do.wait_call(method, 60)
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def left(sim: Simulator) -> str:
    """Leave the snapshot of a killed stun; return its name."""
    sim.do.on_call("RemoveSnapshot_Task", action="lost-request")
    killed(sim, "enable", "RemoveSnapshot_Task")
    (name,) = snapshots(sim)
    return name


def test_the_snapshot_of_a_killed_stun_is_named_by_status(
    sim: Simulator, left: str, capsys: Capture
) -> None:
    _, document, words = call(sim, capsys, "cbt", "status", VM)

    assert document["vms"][0]["snapshots"] == [left]
    assert f"{left} (left by a 'cbtfs cbt' that was killed: 'cbtfs cbt enable' removes it)" in words


@pytest.mark.parametrize("verb", ["enable", "reset"])
def test_the_snapshot_of_a_killed_stun_is_removed_by_the_next(
    sim: Simulator, left: str, capsys: Capture, verb: str
) -> None:
    code, document, _ = call(sim, capsys, "cbt", verb, VM)

    assert code == 0, document
    assert document["vms"][0]["done"][0] == (
        f"removed the snapshot {left}, left by a killed 'cbtfs cbt'"
    )
    assert snapshots(sim) == []


def test_a_snapshot_that_is_still_being_made_by_a_killed_stun_is_removed(
    sim: Simulator, capsys: Capture
) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    killed(sim, "enable", "WaitForUpdatesEx")
    sim.do.on_call("WaitForUpdatesEx", action="operation", operation="release_tasks")
    code, _, _ = call(sim, capsys, "cbt", "enable", VM)

    assert code == 0
    assert snapshots(sim) == []
    assert None not in ids(sim)


def test_enable_repairs_a_reset_killed_at_any_moment(sim: Simulator, capsys: Capture) -> None:
    moments = random.Random(7)
    for calls in (moments.randrange(4, 50) for _ in range(KILLS)):
        sim.do.calls(clear=True)
        with subprocess.Popen(
            [sys.executable, "-m", "cbtfs", "cbt", "reset", *at(sim), VM],
            cwd=ROOT,
            env={**os.environ, "CBTFS_VSPHERE_PASSWORD": "vsim"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            with sim.world.changed:
                while len(sim.dispatcher.calls) < calls and process.poll() is None:
                    sim.world.changed.wait(0.1)  # nobody notifies of the end of the process
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert len(snapshots(sim)) <= 1
        code, document, _ = call(sim, capsys, "cbt", "enable", VM)

        assert code == 0, document
        assert snapshots(sim) == []
        assert None not in ids(sim)


def test_two_resets_at_once_do_no_harm(sim: Simulator, capsys: Capture) -> None:
    """Each removes the other's stun or is refused: nothing is left, and enable repairs the rest."""
    call(sim, capsys, "cbt", "enable", VM)
    sim.do.set_knobs("task", seconds=0.05)
    command = [sys.executable, "-m", "cbtfs", "cbt", "reset", "--json", *at(sim), VM]
    both = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "CBTFS_VSPHERE_PASSWORD": "vsim"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]

    assert {process.returncode for process in both} <= {0, 3, 30}, outputs
    assert not [output for output in outputs if "Traceback" in output]
    assert snapshots(sim) == []
    assert call(sim, capsys, "cbt", "enable", VM)[0] == 0
    assert None not in ids(sim)


def test_the_snapshot_of_a_killed_stun_is_removed_by_the_next_backup(tracked: Lab) -> None:
    tracked.sim.do.snapshot(VM, f"cbtfs-stun-{'0' * 32}")
    outcome = tracked.ingest()

    assert tracked.snapshots() == []
    assert any("cbtfs-stun-" in note for note in outcome.notes)
    tracked.assert_all_true()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_leaves_no_snapshot(sim: Simulator, number: signal.Signals, code: int) -> None:
    sim.do.set_cbt(VM, True)
    sim.do.stun(VM)
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    with subprocess.Popen(
        [*SIGNALS, sys.executable, "-m", "cbtfs", "cbt", "reset", *at(sim), VM],
        cwd=ROOT,
        env={**os.environ, "CBTFS_VSPHERE_PASSWORD": "vsim"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        sim.do.wait_call("WaitForUpdatesEx", 60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == code, output
    assert "change tracking is disabled now: fix this, then run 'cbtfs cbt enable'" in output
    assert snapshots(sim) == []


# parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"cbtfs-stun-{'a' * 32}", "killed"),
        (f"cbtfs-01234567-{'a' * 32}", "run of 'cbtfs ingest vsphere'"),
        ("cbtfs-stun-mine", "not of cbtfs"),
        ("before the upgrade", "not of cbtfs"),
    ],
)
def test_the_owner_of_a_snapshot(name: str, words: str) -> None:
    assert words in whose(name)


def test_the_backings_that_can_be_tracked_are_those_with_a_change_id() -> None:
    kinds = vim.vm.device.VirtualDisk
    names = [
        f"{form}BackingInfo"
        for form in (
            "FlatVer1", "FlatVer2", "SparseVer1", "SparseVer2", "SeSparse", "RawDiskVer2",
            "RawDiskMappingVer1", "PartitionedRawDiskVer2",
        )
    ]  # fmt: skip
    known = {
        name
        for name in names
        if "changeId" in {member.name for member in getattr(kinds, name)._GetPropertyList()}
    }

    assert set(_TRACKABLE) <= known


def test_a_linked_clone_is_no_vm_that_needs_consolidation(sim: Simulator, capsys: Capture) -> None:
    """Its disks have a parent although the VM has no snapshot."""
    clone = {"name": "clone", "disk": [{"size": "1M", "linked": True}]}
    sim.do.add_vm(clone)
    _, status, _ = call(sim, capsys, "cbt", "status", "clone")
    code, document, _ = call(sim, capsys, "cbt", "enable", "clone")

    assert status["vms"][0]["obstacle"] is None
    assert code == 0
    assert document["vms"][0]["disks"][0]["tracked"]
    assert call(sim, capsys, "cbt", "reset", "clone")[0] == 0


def test_the_help_shows_commands_to_type(capsys: Capture) -> None:
    assert main(["cbt", "reset", "--help"]) == 0

    assert "cbtfs cbt reset --server vc1" in capsys.readouterr().out
