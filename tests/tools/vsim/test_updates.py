"""Filters and updates: versions, partial updates, truncated sets, timeouts, cancellation."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import connected, finished, inventory, take_snapshot
from tests.tools.vsim.test_collector import all_machines
from tools.vsim import MachineEntry, Simulator

PC = vmodl.query.PropertyCollector
POLL = PC.WaitOptions(maxWaitSeconds=0)


def watch(service: Any, target: Any, paths: list[str], partial: bool = True) -> Any:
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=target)],
        propSet=[PC.PropertySpec(type=type(target), pathSet=paths)],
    )
    return service.content.propertyCollector.CreateFilter(spec, partial)


def changes(update: Any) -> dict[str, Any]:
    return {
        change.name: change.val
        for filter_update in update.filterSet
        for item in filter_update.objectSet
        for change in item.changeSet
    }


def in_background(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run *action* in a thread; the list receives its result or exception."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(action())
        except vmodl.MethodFault as fault:
            results.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_the_first_answer_is_the_present_state(service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    update = service.content.propertyCollector.WaitForUpdatesEx("", POLL)

    assert changes(update) == {"name": "web1"}
    assert update.filterSet[0].objectSet[0].kind == "enter"


def test_no_change_is_no_update(service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version

    assert collector.WaitForUpdatesEx(version, POLL) is None
    assert collector.CheckForUpdates(version) is None


def test_a_wait_ends_after_max_wait_seconds(sim: Simulator, service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    sim.do.calls(clear=True)
    wait = PC.WaitOptions(maxWaitSeconds=1000)
    thread, results = in_background(lambda: collector.WaitForUpdatesEx(version, wait))
    sim.do.wait_call("WaitForUpdatesEx")
    sim.do.advance(1001)
    thread.join(10)

    assert results == [None]


def test_a_change_wakes_a_waiting_client(sim: Simulator, service: Any, vm: Any) -> None:
    watch(service, vm, ["name", "runtime"], partial=False)
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    thread, results = in_background(lambda: collector.WaitForUpdates(version))
    sim.do.rename("web1", "web2")
    thread.join(10)

    assert changes(results[0]) == {"name": "web2"}


def test_an_old_version_can_be_reused(sim: Simulator, service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    sim.do.rename("web1", "web2")
    first = collector.WaitForUpdatesEx(version, POLL)
    again = collector.WaitForUpdatesEx(version, POLL)

    assert changes(first) == changes(again) == {"name": "web2"}
    assert first.version < again.version


def test_an_unknown_version_is_invalid(service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])

    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        service.content.propertyCollector.WaitForUpdatesEx("17", POLL)


def test_partial_updates_name_the_fields(sim: Simulator, service: Any, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    task = vm.CreateSnapshot_Task("s", "", False, False)
    watch(service, task, ["info"])
    collector = service.content.propertyCollector
    update = collector.WaitForUpdatesEx("", POLL)
    states = [changes(update)["info"].state]
    sim.do.release_tasks()
    while states[-1] != "success":
        update = collector.WaitForUpdatesEx(update.version, PC.WaitOptions(maxWaitSeconds=10))
        fields = changes(update)
        assert all(name.startswith("info.") for name in fields)
        states.append(fields["info.state"])

    assert states[0] in ("queued", "running")
    assert fields["info.result"] == vm.snapshot.currentSnapshot


def test_unset_properties_arrive_without_value(service: Any, vm: Any) -> None:
    snapshot = take_snapshot(vm)
    watch(service, vm, ["snapshot"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    finished(snapshot.RemoveSnapshot_Task(False))

    assert changes(collector.WaitForUpdatesEx(version, POLL)) == {"snapshot": None}


def test_truncated_sets_come_piece_by_piece() -> None:
    machines = inventory(*(MachineEntry(f"vm{number}") for number in range(7)))
    with Simulator(machines) as sim, connected(sim) as service:
        sim.knobs.change("session", updates_per_set=3)
        collector = service.content.propertyCollector
        collector.CreateFilter(all_machines(service, ["name"]), True)
        version, sizes, truncated, ids = "", [], True, set()
        while truncated:
            update = collector.WaitForUpdatesEx(version, POLL)
            spent, version, truncated = version, update.version, update.truncated
            items = [item for filter_update in update.filterSet for item in filter_update.objectSet]
            sizes.append(len(items))
            ids |= {item.obj._moId for item in items}

        assert sizes == [3, 3, 1]
        assert len(ids) == 7
        with pytest.raises(vmodl.query.InvalidCollectorVersion):
            collector.WaitForUpdatesEx(spent, POLL)


def test_a_wait_can_be_cancelled(sim: Simulator, service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    sim.do.calls(clear=True)
    thread, results = in_background(lambda: collector.WaitForUpdates(version))
    sim.do.wait_call("WaitForUpdates")
    collector.CancelWaitForUpdates()
    thread.join(10)

    assert isinstance(results[0], vmodl.fault.RequestCanceled)


def test_machines_enter_and_leave(sim: Simulator, service: Any) -> None:
    collector = service.content.propertyCollector
    collector.CreateFilter(all_machines(service, ["name"]), True)
    version = collector.WaitForUpdatesEx("", POLL).version
    added = sim.do.add_vm({"name": "new", "disk": [{"size": "1M"}]})
    sim.do.remove_vm("web1")
    update = collector.WaitForUpdatesEx(version, POLL)
    kinds = {item.obj._moId: item.kind for item in update.filterSet[0].objectSet}

    assert kinds == {added: "enter", "vm-101": "leave"}


def test_a_removed_object_leaves_the_filter(sim: Simulator, service: Any, vm: Any) -> None:
    watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    sim.do.remove_vm("web1")
    update = collector.WaitForUpdatesEx(version, POLL)

    assert [update_item.kind for update_item in update.filterSet[0].objectSet] == ["leave"]


def test_a_destroyed_filter_reports_nothing(sim: Simulator, service: Any, vm: Any) -> None:
    filtered = watch(service, vm, ["name"])
    collector = service.content.propertyCollector
    version = collector.WaitForUpdatesEx("", POLL).version
    filtered.DestroyPropertyFilter()
    sim.do.rename("web1", "web2")

    assert collector.WaitForUpdatesEx(version, POLL) is None
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        filtered.DestroyPropertyFilter()


def test_collectors_of_one_session_are_independent(service: Any, vm: Any) -> None:
    own = service.content.propertyCollector.CreatePropertyCollector()
    watch(service, vm, ["name"])

    assert own.WaitForUpdatesEx("", POLL) is None
    own.DestroyPropertyCollector()
    assert vim.VirtualMachine is type(vm)
