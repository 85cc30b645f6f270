"""Fifty VMs in one command; some fail, and the vCenter restarts meanwhile."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.listing import find_point
from cbtfs.store.repository import reading
from tests.scenarios.vsphere.command import ROOT, arguments, environment
from tests.scenarios.vsphere.site import MIB, Lab, new_lab
from tests.scenarios.vsphere.test_metrics import Scrape
from tools.vsim import DatastoreEntry, DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate

COUNT = 50
NAMES = [f"vm{number:02}" for number in range(COUNT)]
FULL = ("vm07", "vm19")
BROKEN = "vm23"
LOST = "vm31"


@pytest.fixture
def fifty(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """Fifty VMs on four hosts and eight datastores; every fifth has a second disk."""
    datacenters = tuple(f"DC{n}" for n in range(4))
    stores = tuple(DatastoreEntry(f"ds{n}", f"DC{n % 4}") for n in range(8))
    machines = tuple(
        MachineEntry(
            name,
            datacenter=f"DC{n % 4}",
            datastore=f"ds{n % 8}",
            cbt=True,
            disks=(DiskEntry(size=MIB),) * (2 if n % 5 == 0 else 1),
        )
        for n, name in enumerate(NAMES)
    )
    inventory = Inventory(datacenters=datacenters, datastores=stores, machines=machines)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        for name in NAMES:
            lab.write(4096, name.encode() * 5000, vm=name)
        yield lab


def test_fifty_vms_some_of_which_fail_while_the_vcenter_restarts(
    fifty: Lab, tmp_path: Path
) -> None:
    for name in FULL:
        fifty.sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace", target=name)
    broken = next(vm["id"] for vm in fifty.sim.do.vms() if vm["name"] == BROKEN)
    fifty.sim.do.on_read(action="eio", export=f"*{BROKEN}*")  # its files
    fifty.sim.do.on_read(action="eio", export=f"{broken}/*")  # its disks, by nfc
    fifty.sim.do.on_call("CreateSnapshot_Task", action="lost-reply", target=LOST)
    fifty.sim.do.on_call(
        "CreateSnapshot_Task",
        action="operation",
        operation="restart",
        arguments={"seconds": 0.2, "starting": 0.2},
        at=COUNT // 2,
    )
    metrics = tmp_path / "nightly.prom"
    done = subprocess.run(
        arguments(fifty, "--jobs", "8", "--metrics", str(metrics), "vm*"),
        cwd=ROOT,
        env=environment(fifty.sim),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    failed = {vm["vm"]: vm["exit"] for vm in document["failed"]}
    scrape = Scrape(metrics)

    assert done.returncode == 3, done.stderr
    assert failed == dict.fromkeys([*FULL, BROKEN], 30), done.stderr
    assert {point["vm"] for point in document["points"]} == set(NAMES) - failed.keys()
    assert done.stderr.count("cbtfs: [") == COUNT
    assert fifty.sim.do.calls().count("Login") > 1, "the restart came too late to tell anything"
    for vm in fifty.sim.do.vms():
        assert vm["snapshots"] == []
    assert fifty.run_records() == []
    assert sum(scrape.vms("success").values()) == COUNT - len(failed)
    last_good = scrape.vms("last_good_point_timestamp_seconds")
    assert {vm for vm in NAMES if not last_good[vm]} == failed.keys()
    with reading(fifty.repository) as repository:
        taken = [find_point(repository, point["point"]).manifest for point in document["points"]]
    for manifest in taken:
        fifty.assert_true(manifest)
