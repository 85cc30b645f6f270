"""Limits per host and datastore, while VMs move."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from cbtfs.cli.report.progress import Advance
from cbtfs.ingest.fleet.pool import Rules, run_all
from cbtfs.ingest.fleet.schedule import FleetLimits, Needs, Resource
from cbtfs.ingest.vsphere.attempt import attempt, needs_of
from cbtfs.ingest.vsphere.options import VmIngestResult
from cbtfs.source.vsphere.inventory.placement import Placement, load_placement
from cbtfs.source.vsphere.inventory.vms import ListedVm, list_vms, select
from tests.scenarios.vsphere.site import MIB, Lab, new_lab, one_vm
from tools.vsim import DatastoreEntry, DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate

STORES = tuple(DatastoreEntry(f"ds{n}", f"DC{n % 2}") for n in range(4))


@pytest.fixture
def spread(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A site with eight VMs on two hosts and four datastores."""
    machines = tuple(
        MachineEntry(
            f"vm{n}",
            datacenter=f"DC{n % 2}",
            datastore=f"ds{n % 4}",
            disks=(DiskEntry(size=MIB), DiskEntry(size=MIB)),
        )
        for n in range(8)
    )
    inventory = Inventory(datacenters=("DC0", "DC1"), datastores=STORES, machines=machines)
    with Simulator(inventory, certificate=certificate) as sim:
        yield new_lab(sim, tmp_path)


def test_a_placement_is_host_disks_and_datastores(spread: Lab) -> None:
    with spread.session() as session:
        (vm,) = select(list_vms(session), "vm3")
        place = load_placement(session, vm)

    assert place == Placement("host-2", frozenset({"datastore-14"}), 2)


def test_snapshots_on_a_datastore_stay_within_the_limit(spread: Lab) -> None:
    """The test counts when a snapshot is requested from the server."""
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def look(disk: str, size: int) -> Advance:
        with lock:
            now: Counter[str] = Counter()
            for vm in spread.sim.do.vms():
                if vm["snapshots"]:
                    now[vm["disks"][0]["datastore_path"].split("]")[0]] += 1
            for store, count in now.items():
                most[store] = max(most[store], count)
        return lambda _: None

    with spread.context(on_disk=look) as context:
        vms = select(list_vms(context.session), "vm*")
        rules: Rules[ListedVm, VmIngestResult] = Rules(
            FleetLimits(8, per_host=None, per_datastore=1), lambda vm: needs_of(context, vm)
        )
        results = run_all(vms, lambda vm: attempt(context, vm), context.stop, rules)

    assert len(results.done) == 8
    assert set(most.values()) == {1}
    for _, outcome in results.done:
        spread.assert_true(outcome.manifest)


def test_a_moved_vm_counts_at_its_present_placement(spread: Lab) -> None:
    """vm4 shares the datastore of vm0 until it moves; its placement is loaded when it starts."""
    at_work = threading.Event()
    moved = threading.Event()

    def work(vm: ListedVm) -> str:
        if vm.name == "vm0":
            spread.sim.do.relocate("vm4", "ds2")
            moved.set()
            assert at_work.wait(30), "vm4 waits for a datastore that it is not on any more"
        elif vm.name == "vm4":
            at_work.set()
        return vm.name

    def needs(vm: ListedVm) -> Needs:
        if vm.name == "vm4":
            assert moved.wait(30)
        return needs_of(context, vm)

    with spread.context() as context:
        listed = list_vms(context.session)
        vms = [*select(listed, "vm0"), *select(listed, "vm4")]
        rules: Rules[ListedVm, str] = Rules(FleetLimits(2, per_datastore=1), needs)
        results = run_all(vms, work, context.stop, rules)

    assert [name for _, name in results.done] == ["vm0", "vm4"]


def test_a_vm_takes_disks_of_its_host_and_a_snapshot_on_each_datastore(spread: Lab) -> None:
    with spread.context() as context:
        (vm,) = select(list_vms(context.session), "vm2")
        needs = needs_of(context, vm)

        vcenter = Resource("vcenter", context.session.server_id)

    assert needs == {
        Resource("host", "host-1"): 2,
        Resource("datastore", "datastore-13"): 1,
        vcenter: 2,
    }


@pytest.mark.parametrize(
    ("transports", "connections"),
    [((0, 1), 2), ((1, 2), 2), ((0, 2, 1), 4), ((0,), 0)],
)
def test_a_vm_takes_connections_of_the_first_usable_transport(
    spread: Lab, transports: tuple[int, ...], connections: int
) -> None:
    """A transport that cannot be used takes no connections; then the next one counts."""
    with spread.context() as context:
        (vm,) = select(list_vms(context.session), "vm2")
        fakes = [Mock(connections=Mock(return_value=count)) for count in transports]
        needs = needs_of(replace(context, transports=fakes), vm)

    assert needs[Resource("vcenter", context.session.server_id)] == connections


def test_a_standalone_host_needs_no_vcenter_connections(
    certificate: Certificate, tmp_path: Path
) -> None:
    inventory = one_vm()
    host = replace(inventory, server=replace(inventory.server, kind="esxi"))
    with (
        Simulator(host, certificate=certificate) as sim,
        new_lab(sim, tmp_path).context() as context,
    ):
        (vm,) = list_vms(context.session)
        kinds = {resource.kind for resource in needs_of(context, vm)}

    assert kinds == {"host", "datastore"}
