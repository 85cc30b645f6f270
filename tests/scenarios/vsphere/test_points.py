"""Points of a VM without trouble: reads, recorded facts, and the state of the server."""

from pathlib import Path

import pytest

from cbtfs.core.audit import Sampling
from cbtfs.errors import ChangeTrackingUnusable, SourceUnavailable, UsageError
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tests.ingest.audit.silent_tracker import listed
from tests.make_points import new_repository
from tests.scenarios.vsphere.site import (
    FIRST,
    MIB,
    SECOND,
    TRANSPORTS,
    VM,
    Lab,
    kinds,
    new_lab,
    one_vm,
    reasons,
)
from tools.vsim import DatastoreEntry, DiskEntry, Inventory, MachineEntry, ServerEntry, Simulator
from tools.vsim.soap.certificate import Certificate


def test_the_first_point_enables_tracking_and_reads_all(lab: Lab) -> None:
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    lab.assert_clean()
    assert kinds(outcome.manifest) == ["full", "full"]
    assert outcome.is_whole
    assert "change tracking enabled" in outcome.notes
    assert all(disk.change_id for disk in outcome.manifest.of_kind("disk"))


def test_the_second_point_reads_the_changes(tracked: Lab) -> None:
    outcome = tracked.ingest()

    tracked.assert_true(outcome.manifest)
    assert kinds(outcome.manifest) == ["incremental", "incremental"]
    assert [disk.counts.read_bytes for disk in outcome.manifest.of_kind("disk")] == [65536, 0]


def test_the_base_of_a_point_is_the_id_of_the_snapshot_not_of_the_live_disk(lab: Lab) -> None:
    manifest = lab.ingest().manifest
    live = lab.sim.do.vms()[0]["disks"]

    recorded = {disk["key"]: disk["change_id"] for disk in manifest.metadata["disks"]}
    assert [disk.change_id for disk in manifest.of_kind("disk")] == [
        recorded[FIRST],
        recorded[SECOND],
    ]
    lab.write(0, b"x")
    lab.sim.do.stun(VM)
    assert lab.sim.do.vms()[0]["disks"] != live
    lab.assert_true(lab.ingest().manifest)


def test_a_change_that_is_then_discarded_is_zeros(tracked: Lab) -> None:
    tracked.sim.knobs.change("cbt", unmap_unit=65536)
    tracked.sim.do.discard(VM, FIRST, 65536, 131072)
    outcome = tracked.ingest()

    tracked.assert_true(outcome.manifest)
    assert outcome.manifest.disks[0].counts.zero_blocks > 0


def test_discards_are_zeros_although_no_list_has_them(lab: Lab) -> None:
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.knobs.change("cbt", unmap_reported=False, unmap_unit=4096)
    lab.write(0, b"data" * 50_000)
    lab.ingest()
    lab.sim.do.discard(VM, FIRST, 4096, 24 * 4096)
    outcome = lab.ingest(audit=Sampling(1.0))

    lab.assert_true(outcome.manifest)
    disk = outcome.manifest.disks[0]
    assert disk.ingest == "incremental"
    assert disk.audit is not None
    assert disk.audit["mismatches"] == 0
    assert disk.counts.zero_blocks == 24


@pytest.mark.parametrize(
    ("offset", "length", "blocks"),
    [(5 * 4096, 3 * 4096, 1), (15 * 4096, 2 * 4096, 2), (4096, 2 * 65536, 3), (4096, 15 * 4096, 1)],
    ids=["within a block", "across two", "around a whole one", "up to the end"],
)
def test_a_discarded_part_of_a_block_is_zeros(
    lab: Lab, tmp_path: Path, offset: int, length: int, blocks: int
) -> None:
    """The datastore reports holes that are smaller than the blocks of the repository."""
    lab.repository = new_repository(tmp_path / "coarse", 65536)
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.knobs.change("cbt", unmap_reported=False, unmap_unit=4096)
    lab.write(0, b"data" * 100_000)
    lab.ingest()
    lab.sim.do.discard(VM, FIRST, offset, length)
    disk = lab.ingest(audit=Sampling(1.0)).manifest.disks[0]
    again = lab.ingest().manifest.disks[0]

    lab.assert_all_true()
    assert disk.ingest == "incremental"
    assert disk.audit is not None
    assert disk.audit["mismatches"] == 0
    assert disk.counts.written_blocks + disk.counts.zero_blocks == blocks
    assert again.counts.read_bytes == 0  # holes that are zeros in the base are not changes


def test_a_discarded_part_of_an_unmap_unit_keeps_its_bytes(lab: Lab) -> None:
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.knobs.change("cbt", unmap_reported=False)
    lab.write(0, b"data" * 400_000)
    lab.ingest()
    lab.sim.do.discard(VM, FIRST, 4096, MIB + 8192)
    record = lab.ingest(audit=Sampling(1.0)).manifest.disks[0]

    lab.assert_all_true()
    assert (record.ingest, record.counts.read_bytes) == ("incremental", 0)


def test_a_full_marks_no_point_because_of_unlisted_discards(lab: Lab) -> None:
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.knobs.change("cbt", unmap_reported=False, unmap_unit=4096)
    lab.write(0, b"data" * 50_000)
    first = lab.ingest().manifest
    lab.sim.do.discard(VM, FIRST, 4096, 24 * 4096)
    manifest = lab.ingest(want="full", audit=Sampling(1.0)).manifest

    lab.assert_all_true()
    assert manifest.disks[0].audit is not None
    assert manifest.disks[0].audit["missed"] == 0
    assert listed(lab.repository)[first.point].suspect is None


def test_a_thick_disk_is_not_queried_for_discards(tmp_path: Path, certificate: Certificate) -> None:
    disks = (DiskEntry(size=MIB, provisioning="lazy"), DiskEntry(size=MIB))
    with Simulator(one_vm(*disks), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        for key in (FIRST, SECOND):
            lab.write(0, b"data" * 50_000, disk=key)
        lab.ingest()
        sim.knobs.change("cbt", unmap_reported=False)
        for key in (FIRST, SECOND):
            sim.knobs.change("cbt", unmap_unit=4096)
            sim.do.discard(VM, key, 4096, 24 * 4096)
        manifest = lab.ingest().manifest

        assert [disk.counts.zero_blocks for disk in manifest.disks[:2]] == [0, 24]


@pytest.mark.parametrize("power", ["off", "suspend"])
def test_a_powered_off_vm_is_captured(lab: Lab, power: str) -> None:
    lab.sim.do.set_cbt(VM, True)
    lab.sim.do.power(VM, power)
    lab.ingest()
    lab.write(0, b"while it is off")
    outcome = lab.ingest()

    lab.assert_all_true()
    assert kinds(outcome.manifest) == ["incremental", "incremental"]


def test_a_suspended_vm_is_not_reconfigured(lab: Lab) -> None:
    lab.sim.do.power(VM, "suspend")
    manifest = lab.ingest().manifest
    again = lab.ingest().manifest

    lab.assert_all_true()
    assert manifest.metadata["tracking"]["is_on"] is False
    assert "suspended" in again.disks[0].reason


def test_a_template_is_refused(tmp_path: Path, certificate: Certificate) -> None:
    with Simulator(one_vm(template=True), certificate=certificate) as sim:
        with pytest.raises(SourceUnavailable, match="template"):
            new_lab(sim, tmp_path).ingest()
        assert "CreateSnapshot_Task" not in sim.do.calls()


def test_old_hardware_gets_a_full_with_that_reason(
    tmp_path: Path, certificate: Certificate
) -> None:
    with Simulator(one_vm(hardware=4, power="off"), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.ingest()
        manifest = lab.ingest().manifest

        lab.assert_all_true()
        assert "vmx-04 cannot track changes" in manifest.disks[0].reason
        with pytest.raises(ChangeTrackingUnusable, match="vmx-04"):
            lab.ingest(want="incremental")


def test_old_hardware_is_upgraded_when_asked(tmp_path: Path, certificate: Certificate) -> None:
    with Simulator(one_vm(hardware=4, power="off"), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        first = lab.ingest(upgrade_hardware=True)
        second = lab.ingest()

        lab.assert_all_true()
        assert "upgraded from vmx-04" in first.notes[0]
        assert second.manifest.kind == "incremental"


def test_a_running_vm_is_not_upgraded(tmp_path: Path, certificate: Certificate) -> None:
    with Simulator(one_vm(hardware=4), certificate=certificate) as sim:
        manifest = new_lab(sim, tmp_path).ingest(upgrade_hardware=True).manifest

        assert "UpgradeVM_Task" not in sim.do.calls()
        assert "power it off" in manifest.metadata["tracking"]["reason"]


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (DiskEntry(size=MIB, mode="independent_persistent"), "independent_persistent"),
        (DiskEntry(size=MIB, mode="independent_nonpersistent"), "independent_nonpersistent"),
        (DiskEntry(size=MIB, backing="rdm-physical"), "physical compatibility"),
    ],
)
def test_disks_that_snapshots_leave_out_are_left_out(
    tmp_path: Path, certificate: Certificate, disk: DiskEntry, words: str
) -> None:
    with Simulator(one_vm(DiskEntry(size=MIB), disk), certificate=certificate) as sim:
        sim.knobs.change("snapshot", physical_rdm="left-out")
        lab = new_lab(sim, tmp_path)
        outcome = lab.ingest()

        lab.assert_true(outcome.manifest)
        assert [disk.key for disk in outcome.left_out] == [SECOND]
        assert words in outcome.manifest.metadata["left_out"][0]["reason"]
        assert not outcome.is_whole
        assert lab.ingest(exclude=("2001",)).is_whole


@pytest.mark.parametrize(
    "disk",
    [
        DiskEntry(size=MIB, backing="rdm-physical"),
        DiskEntry(size=MIB, sharing="sharingMultiWriter"),
    ],
)
def test_a_device_that_forbids_snapshots_is_named(
    tmp_path: Path, certificate: Certificate, disk: DiskEntry
) -> None:
    with Simulator(one_vm(DiskEntry(size=MIB), disk), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        with pytest.raises(SourceUnavailable, match="does not support snapshots"):
            lab.ingest()
        lab.assert_clean()


@pytest.mark.parametrize("backing", ["flat2", "sparse2", "sesparse", "rdm-virtual", "raw2"])
def test_every_backing_with_a_change_id_is_tracked(
    tmp_path: Path, certificate: Certificate, backing: str
) -> None:
    inventory = one_vm(DiskEntry(size=MIB, backing=backing))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        lab.ingest()
        lab.write(70_000, b"changed")
        manifest = lab.ingest().manifest

        lab.assert_all_true()
        assert manifest.kind == "incremental"


@pytest.mark.parametrize("backing", ["flat1", "sparse1"])
def test_a_backing_without_a_change_id_gets_a_full(
    tmp_path: Path, certificate: Certificate, backing: str
) -> None:
    inventory = one_vm(DiskEntry(size=MIB), DiskEntry(size=MIB, backing=backing))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        lab.ingest()
        manifest = lab.ingest().manifest

        lab.assert_all_true()
        assert kinds(manifest) == ["incremental", "full"]
        assert "not tracked" in manifest.disks[1].reason


def test_disks_are_chosen_by_label_and_by_key(lab: Lab) -> None:
    first = lab.ingest(include=("Hard disk 2",)).manifest
    second = lab.ingest(exclude=("2001",)).manifest

    lab.assert_all_true()
    assert [disk.label for disk in first.of_kind("disk")] == ["Hard disk 2"]
    assert [disk.label for disk in second.of_kind("disk")] == ["Hard disk 1"]
    with pytest.raises(UsageError, match="no disk to capture"):
        lab.ingest(include=("nothing",))


def test_an_added_disk_gets_a_full_and_the_others_do_not(tracked: Lab) -> None:
    key = tracked.sim.do.add_disk(VM, {"size": "1M"})
    tracked.write(5000, b"on the new disk", disk=key)
    first = tracked.ingest().manifest
    tracked.write(500_000, b"later", disk=key)
    second = tracked.ingest().manifest

    tracked.assert_all_true()
    assert kinds(first) == ["incremental", "incremental", "full"]
    assert kinds(second) == ["incremental"] * 3


def test_a_removed_disk_is_in_no_later_point(tracked: Lab) -> None:
    tracked.sim.do.remove_disk(VM, SECOND)
    manifest = tracked.ingest().manifest

    tracked.assert_all_true()
    assert len(manifest.of_kind("disk")) == 1


def test_a_grown_disk_keeps_its_history_and_gets_a_full(tracked: Lab) -> None:
    tracked.sim.do.grow_disk(VM, FIRST, "3M")
    tracked.write(2_500_000, b"in the new part")
    grown = tracked.ingest().manifest
    tracked.write(2_600_000, b"later")
    after = tracked.ingest().manifest

    tracked.assert_all_true()
    assert grown.disks[0].id == tracked.points[0].disks[0].id
    assert kinds(grown) == ["full", "incremental"]
    assert "2090639" in grown.disks[0].reason
    assert kinds(after) == ["incremental", "incremental"]


def test_wrong_tracking_after_growth_past_128_gib_is_detected_at_the_border(
    tmp_path: Path, certificate: Certificate
) -> None:
    gib = 1 << 30
    with Simulator(one_vm(DiskEntry(size=127 * gib)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        sim.knobs.change("cbt", extend_skews=True)
        lab.write(5 * gib, b"before")
        lab.ingest()
        sim.do.grow_disk(VM, FIRST, "129G")
        lab.write(128 * gib, b"in the new part")
        grown = lab.ingest().manifest
        lab.write(128 * gib, b"written again, and listed elsewhere")
        audited = lab.ingest(audit=Sampling(1e-7, 64, 64)).manifest
        file = Path(sim.do.vms()[0]["disks"][0]["file"])

        assert (grown.disks[0].ingest, audited.disks[0].ingest) == ("full", "full")
        assert audited.disks[0].reason == "change tracking missed 1 blocks"
        with reading(lab.repository) as repository:
            disk = Reader(repository).disk(audited.disks[0])
            for place in (5 * gib, 64 * gib, 128 * gib):
                assert disk.read(place, 4096) == sim.do.read(VM, FIRST, place, 4096)
        assert file.stat().st_blocks * 512 < MIB


def test_a_storage_vmotion_keeps_the_history_and_costs_one_full(
    tmp_path: Path, certificate: Certificate
) -> None:
    stores = (DatastoreEntry("datastore1"), DatastoreEntry("fast", type="NFS"))
    machines = (MachineEntry(VM, disks=(DiskEntry(size=MIB),)),)
    with Simulator(Inventory(datastores=stores, machines=machines), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        first = lab.ingest().manifest
        sim.do.relocate(VM, "fast")
        moved = lab.ingest().manifest
        after = lab.ingest().manifest

        lab.assert_all_true()
        assert first.disks[0].id == moved.disks[0].id == after.disks[0].id
        assert "moved or replaced" in moved.disks[0].reason
        assert after.kind == "incremental"


def test_a_renamed_vm_keeps_its_history(tracked: Lab) -> None:
    tracked.sim.do.rename(VM, "renamed")
    manifest = tracked.ingest("renamed").manifest

    tracked.assert_all_true()
    assert manifest.kind == "incremental"
    assert manifest.vm.id == tracked.points[0].vm.id
    assert manifest.vm.directory == VM


def test_an_esxi_host_is_read_like_a_vcenter(tmp_path: Path, certificate: Certificate) -> None:
    inventory = Inventory(
        server=ServerEntry(kind="esxi"),
        machines=(MachineEntry(VM, disks=(DiskEntry(size=MIB),)),),
        datacenters=("ha-datacenter",),
        datastores=(DatastoreEntry(datacenter="ha-datacenter"),),
    )
    inventory = Inventory(
        server=inventory.server,
        datacenters=inventory.datacenters,
        datastores=inventory.datastores,
        machines=(MachineEntry(VM, datacenter="ha-datacenter", disks=(DiskEntry(size=MIB),)),),
    )
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.ingest()
        lab.write(0, b"changed")
        manifest = lab.ingest().manifest

        lab.assert_all_true()
        assert manifest.kind == "incremental"


@pytest.mark.parametrize("api", ["6.7", "7.0.3.0", "8.0.3.0"])
def test_the_versions_of_the_api_that_are_in_use(
    tmp_path: Path, certificate: Certificate, api: str
) -> None:
    machines = (MachineEntry(VM, disks=(DiskEntry(size=MIB),)),)
    inventory = Inventory(server=ServerEntry(api=api), machines=machines)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.ingest()
        lab.write(0, b"changed")
        manifest = lab.ingest(quiesce=True).manifest

        lab.assert_all_true()
        assert manifest.kind == "incremental"
        assert manifest.metadata["snapshot"]["consistency"] == "quiesced"
        assert manifest.metadata["server"]["api"] == api


def test_vm_json_has_the_metadata_of_the_point(lab: Lab) -> None:
    manifest = lab.ingest().manifest
    metadata = manifest.metadata

    assert metadata["source"] == "vsphere"
    assert metadata["vm"]["path"] == f"/DC0/vm/{VM}"
    assert metadata["transport"] == "datastore"
    assert [disk["slot"] for disk in metadata["disks"]] == ["scsi0:0", "scsi0:1"]
    assert reasons(manifest) == dict.fromkeys(
        ("Hard disk 1", "Hard disk 2"), "first restore point of this disk"
    )
