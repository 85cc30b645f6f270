"""Snapshots: trees, file names, removal, revert, consolidation, obstacles."""

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import (
    DISK,
    MIB,
    connected,
    disk_of,
    disks_of,
    enable_cbt,
    finished,
    inventory,
    machine,
    remove,
    take_snapshot,
)
from tools.vsim import DiskEntry, MachineEntry, Simulator


def truth(sim: Simulator, snapshot: str, disk: int = DISK) -> bytes:
    return Path(sim.do.truth(snapshot, disk)["path"]).read_bytes()


def test_the_tree_shows_every_snapshot(vm: Any) -> None:
    first = take_snapshot(vm, "first")
    second = finished(vm.CreateSnapshot_Task("second", "why", True, False))
    root = vm.snapshot.rootSnapshotList[0]
    child = root.childSnapshotList[0]

    assert (root.snapshot, root.name, root.state) == (first, "first", "poweredOff")
    assert (child.snapshot, child.description, child.state) == (second, "why", "poweredOn")
    assert root.id != child.id
    assert vm.snapshot.currentSnapshot == second
    assert vm.rootSnapshot == [first]
    assert first.childSnapshot == [second]
    assert second.vm == vm


def test_a_machine_without_snapshots_has_no_tree(vm: Any) -> None:
    remove(take_snapshot(vm))

    assert vm.snapshot is None


def test_file_names_are_reused(vm: Any) -> None:
    snapshot = take_snapshot(vm)
    held, current = disk_of(snapshot.config).backing, disk_of(vm.config).backing
    remove(snapshot)

    assert held.fileName == "[datastore1] web1/web1.vmdk"
    assert held.parent is None
    assert current.fileName == "[datastore1] web1/web1-000001.vmdk"
    assert current.parent.fileName == held.fileName
    assert disk_of(vm.config).backing.fileName == held.fileName


def test_removal_of_the_oldest_of_three_leaves_the_others_intact(sim: Simulator, vm: Any) -> None:
    snapshots = []
    for number in range(3):
        sim.do.write("web1", DISK, 0, f"state {number}".encode())
        snapshots.append(take_snapshot(vm, f"s{number}"))
    remove(snapshots[0])

    assert [truth(sim, f"s{number}")[:7] for number in (1, 2)] == [b"state 1", b"state 2"]
    assert disk_of(snapshots[1].config).backing.fileName == "[datastore1] web1/web1.vmdk"
    assert vm.rootSnapshot == [snapshots[1]]
    assert vm.runtime.consolidationNeeded is False


def test_children_are_removed_with_their_parent_on_request(vm: Any) -> None:
    first = take_snapshot(vm, "first")
    take_snapshot(vm, "second")
    finished(first.RemoveSnapshot_Task(True))

    assert vm.snapshot is None
    assert disk_of(vm.config).backing.parent is None


def test_all_snapshots_are_removed_at_once(vm: Any) -> None:
    for name in ("a", "b", "c"):
        take_snapshot(vm, name)
    finished(vm.RemoveAllSnapshots_Task())

    assert vm.snapshot is None
    assert disk_of(vm.config).backing.fileName == "[datastore1] web1/web1.vmdk"


def test_a_snapshot_keeps_its_configuration(vm: Any) -> None:
    snapshot = take_snapshot(vm)
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(name="renamed", annotation="later")))

    assert (vm.config.name, snapshot.config.name) == ("renamed", "web1")
    assert snapshot.config.annotation == ""


def test_snapshot_bytes_do_not_change_while_the_guest_writes(sim: Simulator, vm: Any) -> None:
    sim.do.write("web1", DISK, 100, b"before")
    take_snapshot(vm, "s")
    sim.do.write("web1", DISK, 100, b"after!")

    assert truth(sim, "s")[100:106] == b"before"
    assert len(truth(sim, "s")) == 4 * MIB


def test_the_images_of_removed_snapshots_can_be_kept(sim: Simulator, vm: Any) -> None:
    kept: list[Path] = []
    gone: list[Path] = []
    for keep, paths in ((False, gone), (True, kept)):
        sim.knobs.change("snapshot", keep_truth=keep)
        snapshot = take_snapshot(vm, "s")
        paths.append(Path(sim.do.truth("s", DISK)["path"]))
        remove(snapshot)

    assert kept[0].exists()
    assert not gone[0].exists()


def test_a_revert_restores_bytes_and_logs_an_event(sim: Simulator, service: Any, vm: Any) -> None:
    sim.do.write("web1", DISK, 0, b"one")
    first = take_snapshot(vm, "first")
    sim.do.write("web1", DISK, 0, b"two")
    take_snapshot(vm, "second")
    finished(first.RevertToSnapshot_Task())
    wanted = vim.event.EventFilterSpec(
        eventTypeId=["com.vmware.vc.vm.VmStateRevertedToSnapshot"],
        entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"),
    )
    events = service.content.eventManager.QueryEvents(wanted)

    assert sim.do.read("web1", DISK, 0, 3) == b"one"
    assert vm.snapshot.currentSnapshot == first
    assert vm.runtime.powerState == "poweredOff"
    assert truth(sim, "second")[:3] == b"two"
    assert [(event.vm.vm, event.arguments[0].value) for event in events] == [(vm, "first")]


def test_branches_after_a_revert_are_separate(sim: Simulator, vm: Any) -> None:
    sim.do.write("web1", DISK, 0, b"root")
    root = take_snapshot(vm, "root")
    sim.do.write("web1", DISK, 0, b"left")
    left = take_snapshot(vm, "left")
    finished(root.RevertToSnapshot_Task())
    sim.do.write("web1", DISK, 0, b"rite")
    right = take_snapshot(vm, "right")
    branches = [child.name for child in vm.snapshot.rootSnapshotList[0].childSnapshotList]
    remove(root)

    assert branches == ["left", "right"]
    assert [truth(sim, name)[:4] for name in ("left", "right")] == [b"left", b"rite"]
    remove(left)
    remove(right)
    assert disk_of(vm.config).backing.fileName == "[datastore1] web1/web1.vmdk"
    assert sim.do.read("web1", DISK, 0, 4) == b"rite"


def test_events_can_be_queried_by_time(sim: Simulator, service: Any, vm: Any) -> None:
    take_snapshot(vm, "s")
    sim.do.revert("s")
    sim.do.advance(60)
    since = vim.event.EventFilterSpec.ByTime(beginTime=service.CurrentTime())
    sim.do.revert("s")
    recent = service.content.eventManager.QueryEvents(vim.event.EventFilterSpec(time=since))

    assert [event.key for event in recent] == [2]


def test_removal_can_leave_consolidation_to_do(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("snapshot", needs_consolidation=True)
    remove(take_snapshot(vm))
    left_over = vm.runtime.consolidationNeeded
    sim.knobs.change("snapshot", needs_consolidation=False, consolidate_locked=True)

    assert left_over is True
    assert disk_of(vm.config).backing.fileName == "[datastore1] web1/web1-000001.vmdk"
    with pytest.raises(vim.fault.FileLocked):
        finished(vm.ConsolidateVMDisks_Task())
    sim.knobs.change("snapshot", consolidate_locked=False)
    finished(vm.ConsolidateVMDisks_Task())
    assert vm.runtime.consolidationNeeded is False
    assert disk_of(vm.config).backing.parent is None


def test_the_tree_shows_whether_a_snapshot_is_quiesced(sim: Simulator, vm: Any) -> None:
    def quiesced() -> bool:
        snapshot = take_snapshot(vm, quiesce=True)
        flag = bool(vm.snapshot.rootSnapshotList[0].quiesced)
        remove(snapshot)
        return flag

    with_tools = quiesced()
    sim.do.tools("web1", False)
    without_tools = quiesced()
    sim.do.tools("web1", True)
    sim.knobs.change("snapshot", quiesce="ignored")

    assert (with_tools, without_tools, quiesced()) == (True, False, False)


@pytest.mark.parametrize(
    ("knob", "fault"),
    [
        ("application", vim.fault.ApplicationQuiesceFault),
        ("filesystem", vim.fault.FilesystemQuiesceFault),
        ("tools", vim.fault.ToolsUnavailable),
    ],
)
def test_quiescing_can_fail(sim: Simulator, vm: Any, knob: str, fault: type[Exception]) -> None:
    sim.knobs.change("snapshot", quiesce=knob)

    with pytest.raises(fault):
        take_snapshot(vm, quiesce=True)
    assert vm.snapshot is None
    take_snapshot(vm, quiesce=False)


def test_the_quiesce_specification_is_checked(vm: Any) -> None:
    spec = vim.vm.WindowsQuiesceSpec(timeout=4)
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.CreateSnapshotEx_Task("s", "", False, spec)
    spec.timeout = 5
    finished(vm.CreateSnapshotEx_Task("s", "", False, spec))

    assert vm.snapshot.rootSnapshotList[0].quiesced is True


def with_disks(*disks: DiskEntry) -> Any:
    return inventory(MachineEntry("web1", cbt=True, disks=disks))


def test_snapshots_exclude_independent_disks() -> None:
    disks = DiskEntry(size=MIB), DiskEntry(size=MIB, mode="independent_persistent")
    with Simulator(with_disks(*disks)) as sim, connected(sim) as service:
        vm = machine(service)
        snapshot = take_snapshot(vm, "s")
        independent = disk_of(snapshot.config, 2001).backing

        assert independent.diskMode == "independent_persistent"
        assert independent.changeId is None
        assert disk_of(vm.config, 2001).backing.fileName == independent.fileName
        with pytest.raises(LookupError):
            sim.do.truth("s", 2001)
        with pytest.raises(vim.fault.MemorySnapshotOnIndependentDisk):
            finished(vm.CreateSnapshot_Task("m", "", True, False))


def test_a_physical_rdm_fails_the_snapshot_or_is_left_out() -> None:
    disks = DiskEntry(size=MIB), DiskEntry(size=MIB, backing="rdm-physical")
    with Simulator(with_disks(*disks)) as sim, connected(sim) as service:
        vm = machine(service)
        with pytest.raises(vim.fault.SnapshotIncompatibleDeviceInVm) as refused:
            take_snapshot(vm)
        sim.knobs.change("snapshot", physical_rdm="left-out")
        backing = disk_of(take_snapshot(vm).config, 2001).backing

        assert isinstance(refused.value.fault, vim.fault.RawDiskNotSupported)
        assert backing.compatibilityMode == "physicalMode"
        assert backing.changeId is None


@pytest.mark.parametrize(("sharing", "bus"), [("MultiWriter", "no"), ("None", "physical")])
def test_a_shared_disk_or_bus_fails_the_snapshot(sharing: str, bus: str) -> None:
    disks = (DiskEntry(size=MIB, sharing=f"sharing{sharing}"),)
    entry = MachineEntry("web1", shared_bus=f"{bus}Sharing", disks=disks)
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        vm = machine(service)
        controller = next(
            controller
            for controller in vm.config.hardware.device
            if isinstance(controller, vim.vm.device.VirtualSCSIController)
        )

        with pytest.raises(vim.fault.SnapshotIncompatibleDeviceInVm) as refused:
            take_snapshot(vm)
        assert isinstance(refused.value.fault, vim.fault.SharedBusControllerNotSupported)
        assert refused.value.fault.device == "Hard disk 1"
        assert controller.sharedBus == f"{bus}Sharing"
        assert disk_of(vm.config).backing.sharing == f"sharing{sharing}"


def test_a_template_cannot_be_snapshotted() -> None:
    entry = MachineEntry("web1", template=True, disks=(DiskEntry(size=MIB),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        vm = machine(service)

        assert vm.config.template is True
        with pytest.raises(vmodl.fault.NotSupported):
            take_snapshot(vm)


def test_the_depth_is_limited(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("snapshot", max_depth=2)
    take_snapshot(vm, "a")
    take_snapshot(vm, "b")

    with pytest.raises(vim.fault.TooManySnapshotLevels):
        take_snapshot(vm, "c")


def test_power_states_are_checked(vm: Any) -> None:
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        finished(vm.PowerOnVM_Task())
    finished(vm.SuspendVM_Task())
    suspended = vm.runtime.powerState
    finished(vm.PowerOffVM_Task())

    assert refused.value.existingState == "poweredOn"
    assert suspended == "suspended"
    assert vm.runtime.powerState == "poweredOff"


def test_reconfiguration_adds_and_removes_disks(vm: Any) -> None:
    enable_cbt(vm)
    added = vim.vm.device.VirtualDisk(
        key=-1,
        controllerKey=1000,
        unitNumber=3,
        capacityInKB=1024,
        backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName="", diskMode="persistent", thinProvisioned=True
        ),
    )
    change = vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=added)
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    keys = [disk.key for disk in disks_of(vm.config)]
    gone = vim.vm.device.VirtualDeviceSpec(operation="remove", device=disk_of(vm.config, 2001))
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[gone])))

    assert keys == [2000, 2001, 2003]
    assert [disk.key for disk in disks_of(vm.config)] == [2000, 2003]
    assert disk_of(take_snapshot(vm).config, 2003).backing.changeId is not None


def test_a_stale_change_version_is_a_concurrent_access(vm: Any) -> None:
    stale = vm.config.changeVersion
    enable_cbt(vm)

    with pytest.raises(vim.fault.ConcurrentAccess):
        finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=stale, name="x")))
    assert vm.name == "web1"
