"""The small files of a VM in its points: config.json, .vmx, .nvram, disk descriptors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.mount.files import files_of
from tests.make_points import read_point
from tests.scenarios.vsphere.command import done
from tests.scenarios.vsphere.site import MIB, TRANSPORTS, VM, Lab, kinds, new_lab, one_vm
from tools.vsim import DiskEntry, Simulator
from tools.vsim.data.files import NVRAM
from tools.vsim.inventory import UserEntry
from tools.vsim.rules import ReadRule
from tools.vsim.soap.certificate import Certificate

FILES = ["config.json", f"{VM}.vmx", f"{VM}.nvram", "Hard disk 1.vmdk", "Hard disk 2.vmdk"]
EVERY_FILE = "[[]datastore1*"


def contents(lab: Lab, manifest: Manifest) -> dict[str, bytes]:
    """Return the small files of a point by name."""
    everything = read_point(lab.repository, manifest)
    return {file.label: everything[file.label] for file in manifest.of_kind("file")}


def on_datastore(lab: Lab) -> dict[str, Any]:
    """Return the files of the VM on the simulated datastore, by name."""
    machine = next(iter(lab.sim.world.machines.values()))
    with lab.sim.world.lock:
        return {file.name: file.content for file in lab.sim.site.files.of_machine(machine)}


def test_a_point_has_the_files_of_its_vm(lab: Lab) -> None:
    before = on_datastore(lab)
    outcome = lab.ingest()
    files = contents(lab, outcome.manifest)

    assert list(files) == FILES
    assert files[f"{VM}.nvram"] == NVRAM
    assert b'scsi0:0.fileName = "web1.vmdk"' in files[f"{VM}.vmx"]
    assert set(before[f"{VM}.vmx"].splitlines()) <= set(files[f"{VM}.vmx"].splitlines())
    assert b"web1-flat.vmdk" in files["Hard disk 1.vmdk"]
    config = json.loads(files["config.json"])["config"]
    assert (config["name"], config["hardware"]["numCPU"]) == (VM, 2)
    disks = [d for d in config["hardware"]["device"] if d["type"].endswith("VirtualDisk")]
    ids = [disk["backing"]["changeId"] for disk in disks]
    assert ids == [disk.change_id for disk in outcome.manifest.of_kind("disk")]


def test_small_files_are_not_disks(lab: Lab) -> None:
    lab.ingest()
    code, document, _ = done(lab, "--no-resume", VM)
    (point,) = document["points"]

    assert (code, point["kind"], point["resumed"]) == (0, "incremental", None)
    assert [disk["disk"] for disk in point["disks"]] == ["Hard disk 1", "Hard disk 2"]
    assert [file["file"] for file in point["files"]] == FILES


def test_small_files_are_beside_the_disks_in_the_mount(lab: Lab) -> None:
    entries = files_of(lab.ingest().manifest, 99).disks

    assert [entry.name for entry in entries] == ["Hard disk 1.raw", "Hard disk 2.raw", *FILES]


def test_unchanged_files_are_not_stored_again(tracked: Lab) -> None:
    tracked.ingest()
    manifest = tracked.ingest().manifest

    stored = {file.label: file.counts.new_bytes for file in manifest.of_kind("file")}
    assert [name for name, size in stored.items() if size] == ["config.json"]
    assert kinds(manifest) == ["incremental", "incremental"]


def test_vm_json_has_guest_host_and_datastores(lab: Lab) -> None:
    metadata = lab.ingest().manifest.metadata

    assert metadata["guest"]["host_name"] == f"{VM}.example"
    assert metadata["guest"]["addresses"] == ["192.0.2.10"]
    assert metadata["guest"]["tools_version"] == "12389"
    assert metadata["host"]["name"] == "esx1"
    assert "VMware" in metadata["host"]["product"]
    assert metadata["datastores"] == [{"name": "datastore1", "type": "VMFS"}]
    assert metadata["vm"]["power"] == "poweredOn"


def test_secrets_in_settings_are_nowhere_in_the_repository(
    tmp_path: Path, certificate: Certificate
) -> None:
    extra = {
        "guestinfo.userdata": "hunter2",
        "RemoteDisplay.vnc.password": "hunter2",
        "machine.id": "hunter2",
        "tools.syncTime": "FALSE",
    }
    inventory = one_vm(DiskEntry(size=MIB), extra=extra, annotation="root: hunter2")
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        assert b"hunter2" in on_datastore(lab)[f"{VM}.vmx"]
        manifest = lab.ingest().manifest
        files = contents(lab, manifest)

    assert not [name for name, content in files.items() if b"hunter2" in content]
    assert b"# omitted: guestinfo.userdata" in files[f"{VM}.vmx"]
    assert b'tools.syncTime = "FALSE"' in files[f"{VM}.vmx"]
    left_out = json.loads(files["config.json"])["left_out"]
    assert {"annotation", "extraConfig machine.id"} <= set(left_out)
    raw = [path.read_bytes() for path in lab.repository.rglob("*") if path.is_file()]
    assert not any(b"hunter2" in content for content in raw)


def test_unreadable_files_are_reported_and_cost_nothing_else(
    tmp_path: Path, certificate: Certificate
) -> None:
    inventory = one_vm(DiskEntry(size=MIB), extra={"nvram": "gone.nvram"})
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        sim.knobs.rules.add(ReadRule(export=f"[[]datastore1] {VM}/{VM}.vmx"))
        outcome = lab.ingest()

        lab.assert_true(outcome.manifest)
        assert outcome.is_whole
        assert list(contents(lab, outcome.manifest)) == ["config.json", "Hard disk 1.vmdk"]
        missing = [note for note in outcome.notes if note.startswith("not stored: ")]
        assert len(missing) == 2
        assert f"{VM}.vmx" in missing[0]
        assert "500" in missing[0]
        assert "404" in missing[1]


def test_a_user_who_may_not_read_datastores_gets_one_line(
    tmp_path: Path, certificate: Certificate
) -> None:
    inventory = replace(one_vm(), users=(UserEntry(denied=("Datastore.Browse",)),))
    with Simulator(inventory, certificate=certificate) as sim:
        outcome = new_lab(sim, tmp_path, TRANSPORTS["nbd"]).ingest()

        notes = [note for note in outcome.notes if note.startswith("not stored: ")]
        assert len(notes) == 1
        assert notes[0].endswith("Datastore.Browse and Datastore.FileManagement")


def test_a_setting_cannot_refer_to_files_of_another_vm(
    tmp_path: Path, certificate: Certificate
) -> None:
    inventory = one_vm(DiskEntry(size=MIB), extra={"nvram": f"../{VM}/{VM}.vmx"})
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        files = contents(lab, lab.ingest().manifest)

    assert files[f"{VM}.nvram"] == NVRAM


def test_each_small_file_costs_one_request(tmp_path: Path, certificate: Certificate) -> None:
    disks = [DiskEntry(size=MIB)] * 4
    with Simulator(one_vm(*disks), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        lab.ingest()
        never = ReadRule(export=EVERY_FILE, at=1 << 60)
        sim.knobs.rules.add(never)
        sim.do.calls(clear=True)
        lab.ingest()

        assert never.matched == 2 + len(disks)
        assert sim.do.calls().count("RetrievePropertiesEx") <= 12


@pytest.mark.parametrize("name", ["../../etc", "a/b", "vm.json", "\u202egnp"])
def test_hostile_names_stay_harmless(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with Simulator(one_vm(DiskEntry(size=MIB, label=name)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        sim.do.rename(VM, name)
        (moid,) = sim.world.machines
        manifest = lab.ingest(sim.world.machines[moid].spec.instance_uuid).manifest

        names = [entry.name for entry in files_of(manifest, 99).disks]
        assert len(set(names)) == len(names) == 5
        assert not [name for name in names if "/" in name or name != printable(name)]
