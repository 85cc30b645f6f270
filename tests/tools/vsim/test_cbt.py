"""QueryChangedDiskAreas: activation, pages, faults, completeness."""

import re
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

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
from tools.vsim import DiskEntry, MachineEntry, Simulator
from tools.vsim.model.image import data_spans, punch
from tools.vsim.model.span import Span

CHANGE_ID = re.compile(r"(?:[0-9a-f]{2} ){7}[0-9a-f]{2}-(?:[0-9a-f]{2} ){7}[0-9a-f]{2}/\d+")


# activation


def test_tracking_waits_for_a_stun(vm: Any) -> None:
    enable_cbt(vm)

    assert vm.config.changeTrackingEnabled is True
    assert disk_of(vm.config).backing.changeId is None


def test_the_backup_snapshot_is_itself_a_stun(vm: Any) -> None:
    enable_cbt(vm)
    snapshot = take_snapshot(vm)

    assert CHANGE_ID.fullmatch(change_id(snapshot))
    assert disk_of(vm.config).backing.changeId is not None


def test_a_machine_that_is_off_tracks_at_once(sim: Simulator, vm: Any) -> None:
    sim.do.power("web1", "off")
    sim.do.write("web1", DISK, 0, b"data")
    enable_cbt(vm)
    page = vm.QueryChangedDiskAreas(None, DISK, 0, "*")

    assert [(extent.start, extent.length) for extent in page.changedArea] == [(0, BLOCK)]


def test_a_running_machine_has_no_current_changes(vm: Any) -> None:
    enable_cbt(vm)

    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(None, DISK, 0, "*")


def test_the_flag_is_mirrored_in_the_settings(vm: Any) -> None:
    enable_cbt(vm)
    settings_on = {option.key: option.value for option in vm.config.extraConfig}
    enable_cbt(vm, False)

    assert settings_on == {
        "ctkEnabled": "TRUE",
        "scsi0:0.ctkEnabled": "TRUE",
        "scsi0:1.ctkEnabled": "TRUE",
    }
    assert vm.config.extraConfig == []
    assert vm.config.changeTrackingEnabled is False


def test_a_disk_without_its_ctk_key_has_no_change_id(vm: Any) -> None:
    enable_cbt(vm)
    off = vim.option.OptionValue(key="scsi0:1.ctkEnabled", value="")
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[off])))
    snapshot = take_snapshot(vm)

    assert disk_of(snapshot.config, 2000).backing.changeId is not None
    assert disk_of(snapshot.config, 2001).backing.changeId is None


def test_settings_alone_do_not_change_the_flag_of_a_running_machine(
    sim: Simulator, vm: Any
) -> None:
    keys = ["ctkEnabled", "scsi0:0.ctkEnabled"]
    extra = [vim.option.OptionValue(key=key, value="TRUE") for key in keys]
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=extra)))
    before = vm.config.changeTrackingEnabled
    sim.do.power("web1", "off")
    sim.do.power("web1", "on")

    assert before is False
    assert vm.config.changeTrackingEnabled is True
    assert disk_of(vm.config).backing.changeId is not None


def test_old_hardware_cannot_track_until_it_is_upgraded() -> None:
    old = MachineEntry("web1", hardware=4, power="off", disks=(DiskEntry(size=MIB),))
    with Simulator(inventory(old)) as sim, connected(sim) as service:
        vm = machine(service)
        assert vm.capability.changeTrackingSupported is False
        assert vm.config.version == "vmx-04"
        with pytest.raises(vmodl.fault.NotSupported):
            enable_cbt(vm)
        finished(vm.UpgradeVM_Task("vmx-13"))
        enable_cbt(vm)

        assert vm.config.version == "vmx-13"
        assert disk_of(vm.config).backing.changeId is not None
        with pytest.raises(vim.fault.AlreadyUpgraded):
            finished(vm.UpgradeVM_Task("vmx-13"))
        finished(vm.PowerOnVM_Task())
        with pytest.raises(vim.fault.InvalidPowerState):
            finished(vm.UpgradeVM_Task(None))


@pytest.mark.parametrize("backing", ["flat1", "sparse1"])
def test_old_backings_have_no_change_id(backing: str) -> None:
    entry = MachineEntry("web1", cbt=True, disks=(DiskEntry(size=MIB, backing=backing),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        assert not hasattr(disk_of(take_snapshot(machine(service)).config).backing, "changeId")


@pytest.mark.parametrize("backing", ["flat2", "sparse2", "sesparse", "rdm-virtual", "raw2"])
def test_other_backings_have_a_change_id(backing: str) -> None:
    entry = MachineEntry("web1", cbt=True, disks=(DiskEntry(size=MIB, backing=backing),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        assert CHANGE_ID.fullmatch(change_id(take_snapshot(machine(service))))


# extents


def test_a_snapshot_reports_changes_before_it_and_none_after(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.do.write("web1", DISK, 3 * BLOCK + 7, b"before")
    snapshot = take_snapshot(vm)
    sim.do.write("web1", DISK, 9 * BLOCK, b"after")

    assert changed(vm, snapshot, base) == [(3 * BLOCK, BLOCK)]


def test_changes_before_the_base_are_not_reported(sim: Simulator, vm: Any) -> None:
    based(vm)
    sim.do.write("web1", DISK, 0, b"old")
    first = take_snapshot(vm)
    base = change_id(first)
    remove(first)
    sim.do.write("web1", DISK, BLOCK, b"new")

    assert changed(vm, take_snapshot(vm), base) == [(BLOCK, BLOCK)]


def test_an_id_of_a_removed_snapshot_stays_valid_and_cumulative(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    for number in range(3):
        sim.do.write("web1", DISK, 2 * number * BLOCK, b"x")
        remove(take_snapshot(vm))
    snapshot = take_snapshot(vm)

    assert changed(vm, snapshot, base) == [(number * BLOCK, BLOCK) for number in (0, 2, 4)]


def test_a_block_changed_before_and_after_the_snapshot_is_reported(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.do.write("web1", DISK, 0, b"1")
    first = take_snapshot(vm, "first")
    sim.do.write("web1", DISK, 0, b"2")
    take_snapshot(vm, "second")

    assert changed(vm, first, base) == [(0, BLOCK)]


def test_zeros_written_to_a_hole_are_a_change(sim: Simulator, vm: Any) -> None:
    base = based(vm)
    sim.do.write("web1", DISK, BLOCK, bytes(4096))

    assert changed(vm, take_snapshot(vm), base) == [(BLOCK, BLOCK)]


@pytest.mark.parametrize(("reported", "expected"), [(True, [(0, BLOCK)]), (False, [])])
def test_discards_are_reported_or_not(
    sim: Simulator, vm: Any, reported: bool, expected: list[tuple[int, int]]
) -> None:
    sim.knobs.change("cbt", unmap_reported=reported, unmap_unit=BLOCK)
    sim.do.write("web1", DISK, 0, b"x" * BLOCK)
    base = based(vm)
    sim.do.discard("web1", DISK, 0, BLOCK)
    snapshot = take_snapshot(vm)

    assert changed(vm, snapshot, base) == expected
    with open(sim.do.truth("backup", DISK)["path"], "rb") as file:
        assert file.read(BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize(
    ("offset", "length", "freed"),
    [
        (0, MIB, [0]),
        (4096, 2 * MIB, [1]),
        (4096, MIB, []),
        (MIB + 1, MIB - 1, []),
        (3 * MIB, MIB, [3]),
        (2 * MIB - 4096, 2 * MIB + 4096, [2, 3]),
    ],
)
def test_a_discard_frees_only_whole_units(
    sim: Simulator, vm: Any, offset: int, length: int, freed: list[int]
) -> None:
    """VMFS frees units of 1 MiB; the rest of the range keeps its bytes."""
    sim.knobs.change("cbt", unmap_reported=False)
    for number in range(4):
        sim.do.write("web1", DISK, number * MIB, b"x" * MIB)
    based(vm)
    sim.do.discard("web1", DISK, offset, length)
    take_snapshot(vm)

    image = Path(sim.do.truth("backup", DISK)["path"]).read_bytes()
    assert [n for n in range(4) if image[n * MIB : (n + 1) * MIB] == bytes(MIB)] == freed
    assert image.count(b"x") == (4 - len(freed)) * MIB


def test_a_hole_smaller_than_a_unit_counts_as_written_zeros(sim: Simulator, vm: Any) -> None:
    """A guest with the image loop-mounted punches holes of 4 KiB."""
    sim.knobs.change("cbt", unmap_reported=False)
    sim.do.write("web1", DISK, 0, b"x" * 2 * MIB)
    base = based(vm)
    (live,) = (document["file"] for document in sim.do.vms()[0]["disks"] if document["key"] == DISK)
    with open(live, "r+b") as file:
        punch(file.fileno(), Span(MIB - 4096, 2 * MIB))
    snapshot = take_snapshot(vm)

    assert changed(vm, snapshot, base) == [(MIB - BLOCK, BLOCK)]
    image = Path(sim.do.truth("backup", DISK)["path"])
    assert image.read_bytes().rstrip(b"\0") == b"x" * (MIB - 4096)
    with image.open("rb") as file:
        assert list(data_spans(file.fileno(), 4 * MIB)) == [Span(0, MIB)]


def test_star_reports_every_block_ever_in_use(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("cbt", unmap_unit=4096)
    sim.do.write("web1", DISK, 0, b"x" * 4096)
    based(vm)
    sim.do.discard("web1", DISK, 0, 4096)
    sim.do.write("web1", DISK, 5 * BLOCK, b"y")

    assert changed(vm, take_snapshot(vm), "*") == [(0, BLOCK), (5 * BLOCK, BLOCK)]


def test_star_can_report_the_whole_disk_or_fail(sim: Simulator, vm: Any) -> None:
    based(vm)
    snapshot = take_snapshot(vm)
    sim.knobs.change("cbt", star="whole")
    whole = changed(vm, snapshot, "*")
    sim.knobs.change("cbt", star="fault")

    assert whole == [(0, 4 * MIB)]
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(snapshot, DISK, 0, "*")


def test_the_last_extent_ends_at_the_end_of_the_disk() -> None:
    size = MIB + 512
    entry = MachineEntry("web1", disks=(DiskEntry(size=size),))
    with Simulator(inventory(entry)) as sim, connected(sim) as service:
        vm = machine(service)
        base = based(vm)
        sim.do.write("web1", DISK, size - 1, b"x")

        assert changed(vm, take_snapshot(vm), base) == [(MIB, 512)]


@pytest.mark.parametrize("granularity", [4096, 65536, 262144])
def test_the_granularity_is_a_knob(sim: Simulator, vm: Any, granularity: int) -> None:
    sim.knobs.change("cbt", granularity=granularity)
    base = based(vm)
    sim.do.write("web1", DISK, MIB + 5, b"x")

    assert changed(vm, take_snapshot(vm), base) == [(MIB, granularity)]


# faults


@pytest.mark.parametrize("offset", [-1, 4 * MIB, 5 * MIB])
def test_an_offset_outside_of_the_disk_is_an_invalid_argument(vm: Any, offset: int) -> None:
    base = based(vm)
    snapshot = take_snapshot(vm)

    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        vm.QueryChangedDiskAreas(snapshot, DISK, offset, base)
    assert refused.value.msg == "A specified parameter was not correct: startOffset"
    assert refused.value.invalidProperty == "startOffset"


def test_an_unknown_disk_is_an_invalid_argument(vm: Any) -> None:
    base = based(vm)

    with pytest.raises(vmodl.fault.InvalidArgument, match="deviceKey"):
        vm.QueryChangedDiskAreas(take_snapshot(vm), 2015, 0, base)


def test_an_id_of_another_epoch_is_a_file_fault(vm: Any) -> None:
    based(vm)
    stranger = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/1"

    with pytest.raises(vim.fault.FileFault) as refused:
        vm.QueryChangedDiskAreas(take_snapshot(vm), DISK, 0, stranger)
    assert refused.value.file == "/vmfs/volumes/datastore1/web1/web1.vmdk"
    assert refused.value.msg == f"Error caused by file {refused.value.file}"


def test_an_id_from_the_future_is_a_file_fault(vm: Any) -> None:
    epoch = based(vm).partition("/")[0]

    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(take_snapshot(vm), DISK, 0, f"{epoch}/1000")


def test_a_malformed_id_is_one_of_two_faults(sim: Simulator, vm: Any) -> None:
    based(vm)
    snapshot = take_snapshot(vm)

    with pytest.raises(vmodl.fault.InvalidArgument, match="changeId"):
        vm.QueryChangedDiskAreas(snapshot, DISK, 0, "nonsense")
    sim.knobs.change("cbt", bad_id="FileFault")
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(snapshot, DISK, 0, "nonsense")


def test_a_query_of_an_untracked_disk_is_a_file_fault(vm: Any) -> None:
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(take_snapshot(vm), DISK, 0, "*")


def test_a_removed_snapshot_is_not_found(vm: Any) -> None:
    base = based(vm)
    snapshot = take_snapshot(vm)
    remove(snapshot)

    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as refused:
        vm.QueryChangedDiskAreas(snapshot, DISK, 0, base)
    assert refused.value.obj == snapshot
