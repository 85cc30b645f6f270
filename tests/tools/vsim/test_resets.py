"""Change tracking when machines crash, move, grow or revert."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from tests.tools.vsim.clients import (
    BLOCK,
    DISK,
    MIB,
    based,
    change_id,
    changed,
    connected,
    disk_of,
    enable_cbt,
    finished,
    inventory,
    machine,
    remove,
    take_snapshot,
)
from tools.vsim import DatastoreEntry, DiskEntry, MachineEntry, Simulator
from tools.vsim.fault import Fault

GIB = 1 << 30


def epoch(of: str) -> str:
    return of.partition("/")[0]


def test_a_clean_power_cycle_keeps_tracking(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.do.power("web1", "shutdown")
    sim.do.write("web1", DISK, 0, b"offline")
    sim.do.power("web1", "on")

    assert changed(vm, take_snapshot(vm), base) == [(0, BLOCK)]


@pytest.mark.parametrize("state", ["crash", "off"])
def test_a_crash_resets_tracking(sim: Simulator, vm: Any, state: str) -> None:
    sim.knobs.change("cbt", hard_power_off="reset")
    base = based(vm)
    sim.do.power("web1", state)
    sim.do.power("web1", "on")
    snapshot = take_snapshot(vm)

    assert epoch(change_id(snapshot)) != epoch(base)
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(snapshot, DISK, 0, base)


def test_one_disk_can_lose_its_tracking(sim: Simulator, vm: Any) -> None:
    enable_cbt(vm)
    first = take_snapshot(vm)
    before = [epoch(change_id(first, key)) for key in (2000, 2001)]
    remove(first)
    sim.do.reset_tracking("web1", 2001)
    second = take_snapshot(vm)
    after = [epoch(change_id(second, key)) for key in (2000, 2001)]

    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_tracking_off_and_on_is_a_new_epoch(vm: Any) -> None:
    base = based(vm)
    enable_cbt(vm, False)
    remove(take_snapshot(vm))
    enable_cbt(vm)

    assert epoch(change_id(take_snapshot(vm))) != epoch(base)


def test_tracking_off_and_on_between_two_stuns_changes_nothing(vm: Any) -> None:
    base = based(vm)
    enable_cbt(vm, False)
    enable_cbt(vm)

    assert epoch(change_id(take_snapshot(vm))) == epoch(base)


@pytest.mark.parametrize(
    ("knob", "same_epoch", "answered"),
    [("new-epoch", False, False), ("keep-epoch", True, True), ("keep-id", True, False)],
)
def test_a_revert_resets_tracking_or_answers_wrongly(
    sim: Simulator, vm: Any, knob: str, same_epoch: bool, answered: bool
) -> None:
    sim.knobs.change("cbt", revert=knob)
    enable_cbt(vm)
    sim.do.write("web1", DISK, 0, b"root")
    root = take_snapshot(vm, "root")
    for _ in range(3):
        sim.do.write("web1", DISK, 0, b"lost")
        after = take_snapshot(vm, "after")
        later = change_id(after)
        remove(after)
        sim.do.write("web1", DISK, 0, b"more")
    finished(root.RevertToSnapshot_Task())
    snapshot = take_snapshot(vm, "next")

    assert sim.do.read("web1", DISK, 0, 4) == b"root"
    assert (epoch(change_id(snapshot)) == epoch(later)) is same_epoch
    if answered:  # wrong answer: the reverted block is not reported
        assert changed(vm, snapshot, later) == []
    else:
        with pytest.raises(vim.fault.FileFault):
            vm.QueryChangedDiskAreas(snapshot, DISK, 0, later)


@pytest.mark.parametrize(("knob", "kept"), [("keep", True), ("reset", False)])
def test_a_storage_vmotion_moves_every_path(knob: str, kept: bool) -> None:
    stores = (DatastoreEntry("datastore1"), DatastoreEntry("fast"))
    entry = MachineEntry("web1", disks=(DiskEntry(size=MIB),))
    with Simulator(inventory(entry, datastores=stores)) as sim, connected(sim) as service:
        sim.knobs.change("cbt", relocate=knob)
        vm = machine(service)
        base = based(vm)
        target = next(
            store
            for store in vm.runtime.host.parent.parent.parent.datastore
            if store.name == "fast"
        )
        finished(vm.RelocateVM_Task(vim.vm.RelocateSpec(datastore=target)))
        backing = disk_of(vm.config).backing

        assert backing.fileName == "[fast] web1/web1.vmdk"
        assert backing.datastore == target
        assert (epoch(change_id(take_snapshot(vm))) == epoch(base)) is kept


@pytest.fixture
def two_stores() -> Iterator[tuple[Simulator, Any]]:
    """Yield a machine on one datastore; the other one has a directory of the same name."""
    stores = (DatastoreEntry("datastore1"), DatastoreEntry("fast"))
    disks = (DiskEntry(size=MIB), DiskEntry(size=MIB))
    machines = MachineEntry("web1", disks=disks), MachineEntry("a/b", datastore="fast")
    with (
        Simulator(inventory(*machines, datastores=stores)) as sim,
        connected(sim) as service,
    ):
        yield sim, service


def datastore(vm: Any, name: str) -> Any:
    stores = vm.runtime.host.parent.parent.parent.datastore
    return next(store for store in stores if store.name == name)


def test_one_disk_can_move_alone(two_stores: tuple[Simulator, Any]) -> None:
    vm = machine(two_stores[1])
    locator = vim.vm.RelocateSpec.DiskLocator(diskId=2001, datastore=datastore(vm, "fast"))
    finished(vm.RelocateVM_Task(vim.vm.RelocateSpec(disk=[locator])))

    assert [disk_of(vm.config, key).backing.fileName for key in (2000, 2001)] == [
        "[datastore1] web1/web1.vmdk",
        "[fast] web1/web1_1.vmdk",
    ]
    assert vm.config.files.vmPathName == "[datastore1] web1/web1.vmx"
    assert {store.name for store in vm.datastore} == {"datastore1", "fast"}


def test_two_machines_do_not_share_a_directory(two_stores: tuple[Simulator, Any]) -> None:
    sim, service = two_stores
    sim.do.rename("web1", "a/b2")
    sim.do.rename("a/b", "other")
    sim.do.rename("a/b2", "a/b")
    sim.do.relocate("a/b", "fast")
    vm = machine(service, "a%2fb")

    assert vm.config.files.vmPathName == "[fast] a%2fb_1/a%2fb_1.vmx"
    assert disk_of(vm.config).backing.fileName == "[fast] a%2fb_1/web1.vmdk"


def test_a_migration_can_end_with_tracking_disabled(two_stores: tuple[Simulator, Any]) -> None:
    sim, service = two_stores
    vm = machine(service)
    based(vm)
    sim.knobs.change("cbt", relocate="off")
    sim.do.relocate("web1", "fast")

    assert vm.config.changeTrackingEnabled is False
    assert vm.config.extraConfig == []
    assert disk_of(vm.config).backing.changeId is None


def test_a_removed_and_added_disk_has_a_new_history(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    uuid = disk_of(vm.config).backing.uuid
    sim.do.remove_disk("web1", DISK)
    sim.do.add_disk("web1", {"size": "4M", "slot": "scsi0:0"})
    snapshot = take_snapshot(vm)

    assert disk_of(vm.config).backing.uuid != uuid
    assert epoch(change_id(snapshot)) != epoch(base)


@pytest.mark.parametrize(("knob", "is_reset"), [("reset", True), ("unseen", False)])
def test_a_restore_resets_tracking_or_is_missed_by_it(
    sim: Simulator, vm: Any, knob: str, is_reset: bool
) -> None:
    sim.knobs.change("cbt", restore=knob)
    base = based(vm)
    with pytest.raises(Fault, match="InvalidPowerState"):
        sim.do.restore_disk("web1", DISK, 0, b"restored")
    sim.do.power("web1", "shutdown")
    sim.do.write("web1", DISK, 5 * BLOCK, b"seen")
    sim.do.restore_disk("web1", DISK, 0, b"restored")
    sim.do.power("web1", "on")
    snapshot = take_snapshot(vm, "after")

    assert sim.do.read("web1", DISK, 0, 8) == b"restored"
    assert (epoch(change_id(snapshot)) != epoch(base)) is is_reset
    if not is_reset:  # wrong answer: the restored block is missing
        assert changed(vm, snapshot, base) == [(5 * BLOCK, BLOCK)]


def test_a_restore_to_a_machine_with_snapshots_is_refused(sim: Simulator, vm: Any) -> None:
    take_snapshot(vm)
    sim.do.power("web1", "off")

    with pytest.raises(Fault, match="has snapshots"):
        sim.do.restore_disk("web1", DISK, 0, b"restored")


def test_a_revert_can_log_no_event(sim: Simulator, service: Any, vm: Any) -> None:
    sim.knobs.change("snapshot", revert_event=False)
    finished(take_snapshot(vm).RevertToSnapshot_Task())

    assert service.content.eventManager.QueryEvents(vim.event.EventFilterSpec()) == []


def test_the_extension_of_a_disk_counts_as_changed(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.do.grow_disk("web1", DISK, "5M")
    snapshot = take_snapshot(vm)

    assert disk_of(snapshot.config).capacityInBytes == 5 * MIB
    assert changed(vm, snapshot, base) == [(4 * MIB, MIB)]


def test_a_disk_with_snapshots_does_not_grow(vm: Any) -> None:
    take_snapshot(vm)
    disk = disk_of(vm.config)
    disk.capacityInBytes = disk.capacityInBytes * 2
    change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)

    with pytest.raises(vim.fault.InvalidDeviceSpec):
        finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def test_growth_past_128_gib_can_corrupt_the_map() -> None:
    entry = MachineEntry("web1", disks=(DiskEntry(size=100 * GIB),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        sim.knobs.change("cbt", extend_skews=True)
        vm = machine(service)
        based(vm)
        sim.do.grow_disk("web1", DISK, "129G")
        first = take_snapshot(vm)
        base = change_id(first)
        remove(first)
        sim.do.write("web1", DISK, 120 * GIB, b"x")

        assert changed(vm, take_snapshot(vm), base) == [(60 * GIB, BLOCK)]


@pytest.mark.parametrize(("knob", "reported"), [("allow", 100), ("spoils", 50)])
def test_tracking_that_starts_with_snapshots_can_be_wrong(
    sim: Simulator, vm: Any, knob: str, reported: int
) -> None:
    sim.knobs.change("snapshot", enable_with_snapshots=knob)
    old = take_snapshot(vm, "old")
    enable_cbt(vm)
    first = take_snapshot(vm)
    base = change_id(first)
    remove(first)
    remove(old)
    for name in ("one", "two"):  # the map remains wrong until tracking is reset
        sim.do.write("web1", DISK, 40 * BLOCK if name == "one" else 41 * BLOCK, b"x")
        take_snapshot(vm, name)
    extents = changed(vm, vm.snapshot.currentSnapshot, base)

    assert extents == [(reported * 40 // 100 * BLOCK, 2 * BLOCK)]


def test_a_new_snapshot_can_repeat_the_sequence_number(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.knobs.change("cbt", same_sequence=True)

    assert change_id(take_snapshot(vm)) == base


def test_tracked_disks_can_lack_their_change_id(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("cbt", no_change_id=True)
    enable_cbt(vm)

    assert disk_of(take_snapshot(vm).config).backing.changeId is None


def test_a_large_sparse_disk_costs_only_its_data() -> None:
    entry = MachineEntry("web1", cbt=True, disks=(DiskEntry(size=2 << 40),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        vm = machine(service)
        first = take_snapshot(vm)
        base = change_id(first)
        remove(first)
        sim.do.write("web1", DISK, (2 << 40) - 1, b"x")

        assert changed(vm, take_snapshot(vm), base) == [((2 << 40) - BLOCK, BLOCK)]
