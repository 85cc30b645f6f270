"""Sessions: expiry, termination, session objects, privileges."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import connected, enable_cbt, inventory, machine, take_snapshot
from tools.vsim import Simulator, UserEntry
from tools.vsim.soap.vmodl import Collector


def test_a_session_expires_when_idle(sim: Simulator, service: Any) -> None:
    sim.do.advance(1801)

    with pytest.raises(vim.fault.NotAuthenticated) as refused:
        service.CurrentTime()
    assert refused.value.msg == "The session is not authenticated."


def test_a_session_in_use_does_not_expire(sim: Simulator, service: Any) -> None:
    for _ in range(3):
        sim.do.advance(1700)
        service.CurrentTime()

    assert service.content.sessionManager.currentSession.userName == sim.user.name


def test_current_session_is_readable_without_a_session(sim: Simulator, service: Any) -> None:
    sessions = service.content.sessionManager
    sim.do.end_sessions()

    assert sessions.currentSession is None


def test_filters_views_and_versions_end_with_their_session(sim: Simulator, service: Any) -> None:
    content = service.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    sim.do.end_sessions()
    content.sessionManager.Login(sim.user.name, sim.user.password)

    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        view.DestroyView()
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        content.propertyCollector.WaitForUpdatesEx("00000001", None)


def test_an_administrator_ends_the_session_of_another(sim: Simulator, service: Any) -> None:
    with connected(sim) as other:
        key = other.content.sessionManager.currentSession.key
        service.content.sessionManager.TerminateSession([key])

        with pytest.raises(vim.fault.NotAuthenticated):
            other.CurrentTime()
        assert service.CurrentTime() is not None


def test_no_permission_names_the_privilege() -> None:
    poor = UserEntry("poor", "pw", denied=("VirtualMachine.State.*",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        vm = machine(service)

        with pytest.raises(vim.fault.NoPermission) as refused:
            vm.CreateSnapshot_Task("x", "", False, False)
        assert refused.value.privilegeId == "VirtualMachine.State.CreateSnapshot"
        assert refused.value.object == vm


def test_reconfigure_requires_the_privilege_of_each_field() -> None:
    poor = UserEntry("poor", "pw", denied=("VirtualMachine.Config.ChangeTracking",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        with pytest.raises(vim.fault.NoPermission) as refused:
            enable_cbt(machine(service))
        assert refused.value.privilegeId == "VirtualMachine.Config.ChangeTracking"


def test_the_query_requires_random_read() -> None:
    poor = UserEntry("poor", "pw", denied=("VirtualMachine.Provisioning.DiskRandomRead",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        vm = machine(service)
        snapshot = take_snapshot(vm)

        with pytest.raises(vim.fault.NoPermission):
            vm.QueryChangedDiskAreas(snapshot, 2000, 0, "*")


def test_a_client_can_query_its_privileges() -> None:
    poor = UserEntry("poor", "pw", denied=("VirtualMachine.State.CreateSnapshot",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        vm, content = machine(service), service.content
        asked = ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot"]
        key = content.sessionManager.currentSession.key
        held = content.authorizationManager.HasPrivilegeOnEntities([vm], key, asked)
        listed = content.authorizationManager.FetchUserPrivilegeOnEntities([vm], "poor")

        assert [availability.isGranted for availability in held[0].privAvailability] == [
            False,
            True,
        ]
        assert asked[0] not in listed[0].privileges
        assert asked[1] in listed[0].privileges


def _task_filter(content: Any, task: Any) -> Any:
    collector = content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(
        Collector.FilterSpec(
            objectSet=[Collector.ObjectSpec(obj=task)],
            propSet=[Collector.PropertySpec(type=vim.Task, pathSet=["info.state"])],
        ),
        True,
    )
    return collector


def test_the_end_of_a_session_may_arrive_as_missing_properties(
    sim: Simulator, service: Any
) -> None:
    """The answer is HTTP 200 with NotAuthenticated for each property; other calls fail."""
    content = service.content
    vm = machine(service)
    collector = _task_filter(content, vm.CreateSnapshot_Task("backup", "", False, False))
    sim.knobs.change("session", ended_as="missing-set")
    sim.do.end_sessions()
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=vm)],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "config"])],
    )
    read = content.propertyCollector.RetrievePropertiesEx([spec], Collector.RetrieveOptions())
    updates = collector.WaitForUpdatesEx("", Collector.WaitOptions(maxWaitSeconds=0))

    (content,) = read.objects
    assert content.propSet == []
    assert [entry.path for entry in content.missingSet] == ["name", "config"]
    (update,) = updates.filterSet[0].objectSet
    assert [entry.path for entry in update.missingSet] == ["info.state"]
    for entry in (*content.missingSet, *update.missingSet):
        assert isinstance(entry.fault, vim.fault.NotAuthenticated)
    with pytest.raises(vim.fault.NotAuthenticated):
        service.CurrentTime()


def test_a_rule_makes_properties_missing(sim: Simulator, service: Any) -> None:
    sim.do.on_call("RetrievePropertiesEx", action="missing", fault="vim.fault.NoPermission")
    vm = machine(service)
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=vm)],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    reads = [
        service.content.propertyCollector.RetrievePropertiesEx([spec], Collector.RetrieveOptions())
        for _ in range(2)
    ]

    assert [len(read.objects[0].missingSet) for read in reads] == [1, 0]
