"""Faults at the n-th call, lost requests and replies, tasks that hang or fail."""

import http.client
from typing import Any
from xml.parsers.expat import ExpatError

import pytest
from pyVim.task import TaskBlocked, WaitForTask
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import finished, take_snapshot
from tools.vsim import CallRule, Simulator
from tools.vsim.knobs import KnobError
from tools.vsim.rules import RuleError

LOST = (http.client.HTTPException, ConnectionError)


def snapshots(sim: Simulator) -> list[str]:
    return [document["name"] for document in sim.do.vms()[0]["snapshots"]]


def test_the_second_call_fails_once(sim: Simulator, service: Any) -> None:
    sim.do.on_call("CurrentTime", at=2, fault="vim.fault.HostConnectFault", message="no")
    service.CurrentTime()
    with pytest.raises(vim.fault.HostConnectFault) as refused:
        service.CurrentTime()

    assert refused.value.msg == "no"
    assert service.CurrentTime() is not None


def test_a_fault_can_carry_fields(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace", fields={"datastore": "d"})

    with pytest.raises(vim.fault.NoDiskSpace) as refused:
        take_snapshot(vm)
    assert refused.value.datastore == "d"


def test_a_rule_can_match_one_object_or_user(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", target="another", times=100)
    sim.do.on_call("CreateSnapshot_Task", user="another", times=100)
    take_snapshot(vm)
    sim.do.on_call("CreateSnapshot_Task", target="web*", times=100)

    with pytest.raises(vmodl.fault.SystemError):
        take_snapshot(vm)
    sim.do.clear_rules()
    take_snapshot(vm)


def test_a_task_fails_before_or_after_its_work(sim: Simulator, vm: Any) -> None:
    for action in ("task-fault", "task-fault-after"):
        sim.do.on_call("CreateSnapshot_Task", action=action, fault="vim.fault.SnapshotFault")
        task = vm.CreateSnapshot_Task(action, "", False, False)
        with pytest.raises(vim.fault.SnapshotFault):
            WaitForTask(task)
        sim.do.clear_rules()

    assert snapshots(sim) == ["task-fault-after"]


def test_a_lost_reply_leaves_the_work_done(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="lost-reply")
    with pytest.raises(LOST):
        vm.CreateSnapshot_Task("twin", "", False, False)
    finished(vm.recentTask[0])

    assert snapshots(sim) == ["twin"]


def test_a_lost_request_leaves_nothing_done(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="lost-request")
    with pytest.raises(LOST):
        vm.CreateSnapshot_Task("twin", "", False, False)

    assert snapshots(sim) == []
    assert vm.recentTask == []


def test_a_session_expires_at_the_nth_call(sim: Simulator, service: Any, vm: Any) -> None:
    sim.do.on_call("Fetch", action="expire-session", at=2)
    assert vm.name == "web1"
    with pytest.raises(vim.fault.NotAuthenticated):
        assert vm.name
    with pytest.raises(vim.fault.NotAuthenticated):
        service.CurrentTime()


def test_http_errors_and_answers_that_are_not_soap(sim: Simulator, service: Any) -> None:
    sim.do.on_call("CurrentTime", action="status", status=503)
    sim.do.on_call("CurrentTime", action="garbage", at=2)

    with pytest.raises(http.client.HTTPException, match="503"):
        service.CurrentTime()
    with pytest.raises(ExpatError):
        service.CurrentTime()
    assert service.CurrentTime() is not None


def test_advancing_the_clock_ends_a_delay(sim: Simulator, service: Any) -> None:
    sim.do.on_call("CurrentTime", action="delay", seconds=0.01)

    assert service.CurrentTime() is not None


def test_a_held_task_blocks_the_machine(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    held = vm.CreateSnapshot_Task("held", "", False, False)
    with pytest.raises(vim.fault.TaskInProgress) as refused:
        take_snapshot(vm, "second")
    sim.do.release_tasks()
    WaitForTask(held)

    assert refused.value.task == held
    assert snapshots(sim) == ["held"]


def test_task_in_progress_can_be_raised_by_the_call(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("task", in_progress_as="call")
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    held = vm.CreateSnapshot_Task("held", "", False, False)

    with pytest.raises(vim.fault.TaskInProgress):
        vm.RemoveAllSnapshots_Task()
    sim.do.release_tasks()
    WaitForTask(held)


def test_a_task_can_be_cancelled(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    held = vm.CreateSnapshot_Task("held", "", False, False)
    held.CancelTask()

    with pytest.raises(vmodl.fault.RequestCanceled):
        WaitForTask(held)
    assert held.info.cancelled is True
    assert snapshots(sim) == []


def test_slow_tasks_run_on_the_simulators_clock(sim: Simulator, vm: Any) -> None:
    sim.knobs.change("task", seconds=1000)
    slow = vm.CreateSnapshot_Task("slow", "", False, False)
    early = slow.info.state
    sim.do.advance(1001)
    WaitForTask(slow)

    assert early in ("queued", "running")
    assert slow.info.completeTime > slow.info.queueTime


def test_a_question_blocks_a_waiting_client(sim: Simulator, vm: Any) -> None:
    sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    held = vm.CreateSnapshot_Task("held", "", False, False)
    sim.do.ask("web1", "moved or copied?")

    with pytest.raises(TaskBlocked):
        WaitForTask(held)
    assert vm.runtime.question.text == "moved or copied?"


def test_a_task_reports_state_and_progress(vm: Any) -> None:
    task = vm.CreateSnapshot_Task("s", "", False, False)
    snapshot = finished(task)
    info = task.info

    assert (info.state, info.progress, info.result) == ("success", 100, snapshot)
    assert info.name.info.wsdlName == "CreateSnapshot_Task"
    assert info.entity == vm


def test_a_rule_can_run_an_operation_between_two_calls(sim: Simulator, vm: Any) -> None:
    foreign = {"vm": "web1", "name": "foreign"}
    sim.do.on_call("Fetch", action="operation", operation="snapshot", arguments=foreign, at=2)

    states = [vm.snapshot, vm.snapshot]

    assert states[0] is None
    assert states[1].rootSnapshotList[0].name == "foreign"
    with pytest.raises(LookupError):
        sim.do.on_call("Fetch", action="operation", operation="explode")


def test_invalid_knobs_and_rules_are_refused(sim: Simulator) -> None:
    with pytest.raises(KnobError, match="granularity"):
        sim.knobs.change("cbt", granularity=1000)
    with pytest.raises(KnobError, match="star"):
        sim.knobs.change("cbt", star="sometimes")
    with pytest.raises(KnobError, match="no knob"):
        sim.knobs.change("cbt", colour=1)
    with pytest.raises(KnobError, match="no knob group"):
        sim.knobs.change("cbd")
    with pytest.raises(RuleError, match="action"):
        CallRule("x", action="explode")  # type: ignore[arg-type]


def test_reset_knobs_restores_the_defaults(sim: Simulator) -> None:
    before = sim.do.knobs()
    sim.knobs.change("cbt", max_extents=1)
    sim.do.on_call("CurrentTime")
    changed = sim.do.knobs()
    sim.do.reset_knobs()

    assert changed != before
    assert sim.do.knobs() == before


def test_finished_tasks_can_be_forgotten(sim: Simulator, vm: Any) -> None:
    task = vm.CreateSnapshot_Task("s", "", False, False)
    WaitForTask(task)
    sim.do.forget_tasks()

    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as refused:
        assert task.info
    assert refused.value.obj == task
