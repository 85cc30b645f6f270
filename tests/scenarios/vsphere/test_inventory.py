"""The list of VMs, and the VMs that a name selects."""

from pathlib import Path

import pytest

from cbtfs.errors import UsageError
from cbtfs.source.vsphere.inventory.vms import ListedVm, list_vms, select, select_all
from tests.make_points import new_repository
from tests.scenarios.vsphere.site import Lab, names_of
from tools.vsim import DatastoreEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate

UUID = "50000000-0000-4000-8000-00000000000a"


@pytest.fixture(scope="module")
def vms(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> list[ListedVm]:
    """Two datacenters, folders, a duplicate name, a template, names with special characters."""
    machines = (
        MachineEntry("web1", folder="prod/web"),
        MachineEntry("web2", folder="prod/web"),
        MachineEntry("web-gold", folder="prod/web", template=True),
        MachineEntry("db", folder="prod", instance_uuid=UUID),
        MachineEntry("db", datacenter="DC1", datastore="other"),
        MachineEntry("a*b"),
        MachineEntry("axb"),
        MachineEntry("team/web 1"),
        MachineEntry("far", datacenter="DC2", folder="prod", datastore="third"),
    )
    inventory = Inventory(
        datacenters=("DC0", "DC1", "DC2"),
        datacenter_folders={"DC2": "europe/north"},
        datastores=(
            DatastoreEntry(),
            DatastoreEntry("other", "DC1"),
            DatastoreEntry("third", "DC2"),
        ),
        machines=machines,
    )
    folder: Path = tmp_path_factory.mktemp("inventory")
    with Simulator(inventory, certificate=certificate) as sim:
        sim.knobs.change("session", objects_per_page=3)
        with Lab(sim, new_repository(folder / "r")).session() as session:
            sim.do.calls(clear=True)
            listed = list_vms(session)
        calls = sim.do.calls()
    assert calls.count("RetrievePropertiesEx") == 1
    assert set(calls) == {"RetrievePropertiesEx", "ContinueRetrievePropertiesEx", "Logout"}
    return listed


def test_paths_and_datacenters(vms: list[ListedVm]) -> None:
    assert sorted(vm.path for vm in vms) == [
        "/DC0/vm/a*b",
        "/DC0/vm/axb",
        "/DC0/vm/prod/db",
        "/DC0/vm/prod/web/web-gold",
        "/DC0/vm/prod/web/web1",
        "/DC0/vm/prod/web/web2",
        "/DC0/vm/team%2fweb 1",
        "/DC1/vm/db",
        "/europe/north/DC2/vm/prod/far",
    ]
    datacenters = {vm.path: vm.datacenter for vm in vms}
    assert datacenters["/DC1/vm/db"] == "DC1"
    assert datacenters["/europe/north/DC2/vm/prod/far"] == "europe/north/DC2"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("web1", ["/DC0/vm/prod/web/web1"]),
        ("/DC1/vm/db", ["/DC1/vm/db"]),
        ("DC1/vm/db", ["/DC1/vm/db"]),
        ("web*", ["/DC0/vm/prod/web/web1", "/DC0/vm/prod/web/web2"]),
        ("/DC0/vm/prod/*", ["/DC0/vm/prod/db", "/DC0/vm/prod/web/web1", "/DC0/vm/prod/web/web2"]),
        (UUID, ["/DC0/vm/prod/db"]),
        (UUID.upper(), ["/DC0/vm/prod/db"]),
        ("web-gold", ["/DC0/vm/prod/web/web-gold"]),
        ("a*b", ["/DC0/vm/a*b"]),
        ("team/web 1", ["/DC0/vm/team%2fweb 1"]),
        ("team%2fweb 1", ["/DC0/vm/team%2fweb 1"]),
        ("team%2Fweb*", ["/DC0/vm/team%2fweb 1"]),
        ("/DC0/vm/team%2Fweb 1", ["/DC0/vm/team%2fweb 1"]),
        ("far", ["/europe/north/DC2/vm/prod/far"]),
        ("europe/north/DC2/vm/prod/far", ["/europe/north/DC2/vm/prod/far"]),
        ("a?b", ["/DC0/vm/a*b", "/DC0/vm/axb"]),
    ],
)
def test_a_name_selects_vms(vms: list[ListedVm], wanted: str, expected: list[str]) -> None:
    assert sorted(vm.path for vm in select(vms, wanted)) == expected


def test_an_ambiguous_name_lists_the_candidates(vms: list[ListedVm]) -> None:
    with pytest.raises(UsageError, match="ambiguous: name one of /DC0/vm/prod/db, /DC1/vm/db"):
        select(vms, "db")


@pytest.mark.parametrize("wanted", ["none", "none*", "/DC0/vm/none", UUID[:-1] + "b", "[", ""])
def test_a_name_that_selects_no_vm(vms: list[ListedVm], wanted: str) -> None:
    with pytest.raises(UsageError, match="no VM"):
        select(vms, wanted)


def test_several_names_give_each_machine_once(vms: list[ListedVm]) -> None:
    selection = select_all(vms, ["web2", "web*", "db", "none", "web1"])

    assert names_of(selection.vms) == ["web2", "web1"]
    assert [name for name, _ in selection.refused] == ["db", "none"]
