"""PropertyCollector: traversal, pages, missing properties."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import connected, inventory
from tools.vsim import Inventory, MachineEntry, Simulator, UserEntry

PC = vmodl.query.PropertyCollector


def all_machines(service: Any, paths: list[str]) -> Any:
    """Return the filter that every inventory tool builds."""
    content = service.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    step = PC.TraversalSpec(name="v", type=vim.view.ContainerView, path="view", skip=False)
    return PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=view, skip=True, selectSet=[step])],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=paths)],
    )


def names(result: Any) -> list[str]:
    return [
        prop.val for content in result.objects for prop in content.propSet if prop.name == "name"
    ]


@pytest.fixture
def many() -> Inventory:
    return inventory(*(MachineEntry(f"vm{number}", folder="a/b") for number in range(7)))


def test_paging_returns_each_machine_once(many: Inventory) -> None:
    with Simulator(many) as sim, connected(sim) as service:
        collector = service.content.propertyCollector
        spec = all_machines(service, ["name"])
        result = collector.RetrievePropertiesEx([spec], PC.RetrieveOptions(maxObjects=3))
        listed, sizes = names(result), [len(result.objects)]
        while result.token:
            result = collector.ContinueRetrievePropertiesEx(result.token)
            listed += names(result)
            sizes.append(len(result.objects))

        assert sizes == [3, 3, 1]
        assert sorted(listed) == [f"vm{number}" for number in range(7)]


def test_the_server_may_page_without_max_objects(many: Inventory) -> None:
    with Simulator(many) as sim, connected(sim) as service:
        sim.knobs.change("session", objects_per_page=2)
        spec = all_machines(service, ["name"])
        result = service.content.propertyCollector.RetrievePropertiesEx(
            [spec], PC.RetrieveOptions()
        )

        assert len(result.objects) == 2
        assert result.token


def test_a_token_works_once(many: Inventory) -> None:
    with Simulator(many) as sim, connected(sim) as service:
        collector = service.content.propertyCollector
        options = PC.RetrieveOptions(maxObjects=2)
        first = collector.RetrievePropertiesEx([all_machines(service, ["name"])], options)
        collector.ContinueRetrievePropertiesEx(first.token)

        with pytest.raises(vmodl.fault.InvalidArgument):
            collector.ContinueRetrievePropertiesEx(first.token)


def test_nested_paths_and_unset_properties(service: Any) -> None:
    paths = ["name", "config.hardware.device", "config.changeTrackingEnabled", "snapshot"]
    result = service.content.propertyCollector.RetrievePropertiesEx(
        [all_machines(service, paths)], PC.RetrieveOptions()
    )
    values = {prop.name: prop.val for prop in result.objects[0].propSet}

    assert values.keys() == set(paths) - {"snapshot"}
    assert [device.key for device in values["config.hardware.device"]] == [1000, 2000, 2001]
    assert values["config.changeTrackingEnabled"] is False


@pytest.mark.parametrize("path", ["nonsense", "config.nonsense"])
def test_a_path_that_does_not_exist_is_invalid(service: Any, path: str) -> None:
    with pytest.raises(vmodl.query.InvalidProperty) as refused:
        service.content.propertyCollector.RetrievePropertiesEx(
            [all_machines(service, [path])], PC.RetrieveOptions()
        )
    assert refused.value.name == path


def test_an_empty_selection_has_no_result(service: Any) -> None:
    spec = all_machines(service, ["name"])
    spec.propSet[0].type = vim.Datastore

    assert (
        service.content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions()) is None
    )


def test_named_selections_walk_the_folders(many: Inventory) -> None:
    with Simulator(many) as sim, connected(sim) as service:
        again = PC.SelectionSpec(name="folders")
        folders = PC.TraversalSpec(
            name="folders",
            type=vim.Folder,
            path="childEntity",
            skip=False,
            selectSet=[again, PC.SelectionSpec(name="dc")],
        )
        dc = PC.TraversalSpec(
            name="dc", type=vim.Datacenter, path="vmFolder", skip=False, selectSet=[again]
        )
        spec = PC.FilterSpec(
            objectSet=[
                PC.ObjectSpec(obj=service.content.rootFolder, skip=False, selectSet=[folders, dc])
            ],
            propSet=[PC.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])],
        )
        result = service.content.propertyCollector.RetrieveProperties([spec])
        visited = [content.propSet[0].val for content in result]

        assert visited[:5] == ["Datacenters", "DC0", "vm", "a", "b"]
        assert len(visited) == 12


def test_forbidden_properties_are_in_the_missing_set() -> None:
    blind = UserEntry("blind", "pw", denied=("System.Read",))
    with Simulator(inventory(users=(blind,))) as sim, connected(sim) as service:
        result = service.content.propertyCollector.RetrievePropertiesEx(
            [all_machines(service, ["name"])], PC.RetrieveOptions()
        )
        missing = result.objects[0].missingSet

        assert [str(entry.path) for entry in missing] == ["name"]
        assert isinstance(missing[0].fault, vim.fault.NoPermission)


def test_a_removed_object_fails_the_call(sim: Simulator, service: Any, vm: Any) -> None:
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=vm)],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    sim.do.remove_vm("web1")
    collector = service.content.propertyCollector

    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        collector.RetrievePropertiesEx([spec], PC.RetrieveOptions())
    spec.reportMissingObjectsInResults = True
    assert collector.RetrievePropertiesEx([spec], PC.RetrieveOptions()) is None


def test_all_properties_of_a_machine_can_be_read(service: Any, vm: Any) -> None:
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=vm)],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, all=True)],
    )
    result = service.content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions())
    properties = {prop.name for prop in result.objects[0].propSet}

    assert {"name", "config", "runtime", "capability", "guest", "summary", "layoutEx"} <= properties
    assert result.objects[0].missingSet == []


def test_entities_are_found_by_uuid_and_path(service: Any, vm: Any) -> None:
    search, config = service.content.searchIndex, vm.config

    assert search.FindByUuid(None, config.instanceUuid, True, True) == vm
    assert search.FindByUuid(None, config.uuid, True) == vm
    assert search.FindByUuid(None, config.uuid, True, True) is None
    assert search.FindByInventoryPath("/DC0/vm/nobody") is None
    datacenter = service.content.rootFolder.childEntity[0]
    assert search.FindByDatastorePath(datacenter, config.files.vmPathName) == vm
    assert vm.parent.name == "vm"
    assert vm.runtime.host.name == "esx1"
