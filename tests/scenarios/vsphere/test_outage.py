"""Outages of the server during a run: all threads wait together, up to a limit."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vmodl

from cbtfs.cli.report.progress import Advance
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.vsphere.connect.outage import Outage
from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
from tests.scenarios.vsphere.site import MIB, QUICK, VM, Lab, by_nbd, new_lab
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate, make_certificate

WAITING = replace(QUICK, away=60.0, knock=0.02)
NAMES = tuple(f"vm{n}" for n in range(6))
ANOTHER_PROCESS = {"seconds": 0.2, "starting": 0.1}


@pytest.fixture
def six(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A site with six VMs, each with one point and later changes."""
    machines = tuple(MachineEntry(name, cbt=True, disks=(DiskEntry(size=MIB),)) for name in NAMES)
    with Simulator(Inventory(machines=machines), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        for name in NAMES:
            lab.write(0, name.encode() * 20_000, vm=name)
        lab.ingest_all(*NAMES, jobs=3)
        for name in NAMES:
            lab.write(300_000, name.encode() * 1000, vm=name)
        lab.retry_policy = WAITING
        sim.do.calls(clear=True)
        yield lab


def assert_nothing_stays(lab: Lab) -> None:
    assert {name: lab.snapshots(name) for name in NAMES} == {name: [] for name in NAMES}
    assert lab.run_records() == []


@pytest.mark.parametrize(
    "method",
    [
        "RetrievePropertiesEx",
        "CreateSnapshot_Task",
        "WaitForUpdatesEx",
        "QueryChangedDiskAreas",
        "RemoveSnapshot_Task",
    ],
)
@pytest.mark.parametrize("form", ["fault", "missing-set"])
def test_a_restart_in_the_middle_costs_no_vm_its_point(six: Lab, method: str, form: str) -> None:
    six.sim.knobs.change("session", ended_as=form)
    rule: dict[str, Any] = {"operation": "restart", "arguments": ANOTHER_PROCESS}
    six.sim.do.on_call(method, action="operation", at=4, **rule)
    results = six.ingest_all(*NAMES, jobs=3)

    assert results.failed == []
    assert len(results.done) == len(NAMES)
    for _, outcome in results.done:
        assert outcome.is_whole
        six.assert_true(outcome.manifest)
    assert_nothing_stays(six)


def test_a_restart_while_bytes_are_read_through_the_server_is_waited_for(six: Lab) -> None:
    six.sim.do.on_read(
        action="operation", operation="restart", arguments=ANOTHER_PROCESS, at=3, times=1
    )
    results = six.ingest_all(*NAMES, jobs=3)

    assert results.failed == []
    for _, outcome in results.done:
        six.assert_true(outcome.manifest)
    assert_nothing_stays(six)


def test_a_login_for_a_read_is_tried_again_too(six: Lab) -> None:
    """The session ends, and then the connection for the new login breaks."""
    six.sim.do.on_read(action="operation", operation="end_sessions", times=1)
    six.sim.do.on_call("Login", action="lost-request", at=2, times=2)
    results = six.ingest_all(*NAMES, jobs=1, want="full")

    assert results.failed == []
    assert six.sim.do.calls().count("Login") == 4


def test_a_task_that_the_server_forgot_makes_no_second_snapshot(six: Lab) -> None:
    """The host is still taking the snapshot when the server is back, without a task."""
    six.sim.do.on_call("CreateSnapshot_Task", action="hold-task", target="vm0")
    six.sim.do.on_call(
        "WaitForUpdatesEx", action="operation", operation="restart", arguments=ANOTHER_PROCESS
    )
    six.sim.do.on_call("CreateSnapshot_Task", action="operation", operation="release_tasks", at=2)
    (ended,) = six.ingest_all("vm0").ended

    assert ended.tries == 1
    assert six.sim.do.calls().count("CreateSnapshot_Task") == 2
    assert_nothing_stays(six)


def test_a_failure_caused_by_the_end_of_the_login_is_retried(six: Lab) -> None:
    six.sim.do.on_call(
        "CreateSnapshot_Task", action="operation", operation="end_sessions", target="vm3"
    )
    fault = {"action": "task-fault", "fault": "vim.fault.SnapshotFault"}
    six.sim.do.on_call("CreateSnapshot_Task", target="vm3", **fault)
    six.sim.do.on_call("CreateSnapshot_Task", target="vm4", times=9, **fault)
    results = six.ingest_all("vm3", "vm5", jobs=1)
    others = six.ingest_all("vm4", jobs=1)

    assert [(ended.item.name, ended.tries) for ended in results.ended] == [("vm3", 2), ("vm5", 1)]
    assert results.failed == []
    assert [(ended.item.name, ended.tries) for ended in others.ended] == [("vm4", 1)]
    assert len(others.failed) == 1
    assert_nothing_stays(six)


def test_an_unreachable_server_is_given_up_once_for_all_vms(six: Lab) -> None:
    six.retry_policy = replace(WAITING, away=0.5)
    six.sim.do.on_call(
        "CreateSnapshot_Task",
        action="operation",
        operation="restart",
        arguments={"seconds": 3600},
        at=2,
    )
    results = six.ingest_all(*NAMES, jobs=2)
    six.sim.do.advance(3600)
    six.sim.do.wait_restart()
    left = {name for name in NAMES if six.snapshots(name)}
    six.retry_policy = WAITING
    again = six.ingest_all(*NAMES, jobs=2)

    assert len(results.failed) >= len(NAMES) - 1
    assert all(isinstance(error, SourceUnavailable) for _, error in results.failed)
    assert {ended.tries for ended in results.ended} == {1}
    assert left, "the restart came too late to tell anything"
    assert again.failed == []
    for _, outcome in again.done:
        six.assert_true(outcome.manifest)
    assert_nothing_stays(six)


def test_a_password_that_is_refused_after_a_restart_is_not_tried_again(six: Lab) -> None:
    six.sim.do.on_call(
        "CreateSnapshot_Task", action="operation", operation="restart", arguments=ANOTHER_PROCESS
    )
    six.sim.do.on_call("Login", fault="vim.fault.InvalidLogin", at=2, times=99)
    results = six.ingest_all(*NAMES, jobs=3)

    assert {type(error) for _, error in results.failed} == {AccessDenied}
    assert six.sim.do.calls().count("Login") == 2


def test_cancelling_a_run_ends_the_wait(six: Lab) -> None:
    six.retry_policy = replace(WAITING, away=3600.0)
    stop = threading.Event()
    with six.context(stop=stop) as context:
        six.sim.do.restart(3600)
        stop.set()
        with pytest.raises(SourceUnavailable, match="cannot reach"):
            context.session.repeat(context.session._instance.CurrentTime, "ask")


def test_a_server_that_comes_back_as_another_one_is_not_waited_for(
    six: Lab, tmp_path: Path
) -> None:
    six.retry_policy = replace(WAITING, away=3600.0)
    with six.session() as session:
        six.sim._https.tls = make_certificate(tmp_path).server_context()
        six.sim.do.restart()
        six.sim.do.wait_restart()
        with pytest.raises(SourceUnavailable, match="is not trusted"):
            session.repeat(session._instance.CurrentTime, "ask")


def test_waiting_for_a_server_prints_a_line(six: Lab, caplog: pytest.LogCaptureFixture) -> None:
    six.sim.do.on_call("Login", action="status", status=503, times=2)
    with six.session() as session:
        lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        caplog.clear()
        six.sim.do.on_call("CurrentTime", action="lost-reply")
        session.now()

    where = f"{six.sim.host}:{six.sim.port}"
    assert lines == [f"waiting for {where}, which does not answer", f"{where} answers again"]
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []  # one connection lost


def test_an_attempt_that_fails_slowly_is_reported_at_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("vc", RetryPolicy())
    for number, seconds in ((0, 0.1), (0, 30.0), (1, 30.0)):
        outage.notice(number, seconds)
        lines = len(caplog.records)
        assert lines == (seconds > 1)
    outage.ends()

    assert caplog.records[-1].getMessage() == "vc answers again"


def test_a_fault_counts_as_an_answer(six: Lab) -> None:
    with six.session() as session:
        six.sim.do.restart(**ANOTHER_PROCESS)
        six.sim.do.on_call("CurrentTime", fault="vmodl.fault.SystemError")
        with pytest.raises(vmodl.fault.SystemError):
            session.repeat(session._instance.CurrentTime, "ask")

        assert session._outage.count == 1
        assert session._outage._since is None


# a long copy


def copying(lab: Lab, hours: float) -> None:
    """Take one point by NBD, with reads that take long on the server's clock."""
    lab.make_transport = by_nbd
    steps = int(hours * 6)

    def pace(disk: str, size: int) -> Advance:
        left = iter(range(steps))

        def read(count: int) -> None:
            if next(left, None) is not None:
                lab.sim.do.calls(clear=True)
                lab.sim.do.advance(600)
                if lab.retry_policy.login < 1:
                    lab.sim.do.wait_call("CurrentTime")

        return read

    lab.ingest(on_disk=pace)


@pytest.fixture
def large(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    disk = DiskEntry(size=64 * MIB, provisioning="eager")
    machines = (MachineEntry(VM, disks=(disk,)),)
    with Simulator(Inventory(machines=machines), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        for at in range(0, 64 * MIB, 4 * MIB):
            lab.write(at, b"x" * 4096)
        yield lab


def test_a_session_survives_two_hours_of_copying(large: Lab) -> None:
    """The data path does not use the session, and a server ends an idle one after half an hour."""
    large.retry_policy = replace(QUICK, login=0.02)
    copying(large, hours=2)

    assert "Login" not in large.sim.do.calls()
    large.assert_all_true()
    large.assert_clean()


def test_without_keep_alive_calls_the_session_ends(large: Lab) -> None:
    large.retry_policy = replace(QUICK, login=3600.0)
    copying(large, hours=2)

    assert "Login" in large.sim.do.calls()
    large.assert_all_true()


# duration of waits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_waited_out_by_all_threads_together() -> None:
    clock = Clock()
    outage = Outage("vc", RetryPolicy(connection=(1.0, 2.0), away=20.0, knock=5.0), clock)
    waited = []
    for pause in outage.pauses():
        waited.append(pause)
        clock.now += pause

    assert waited == [1.0, 2.0, 5.0, 5.0, 5.0, 5.0]
    assert outage.is_lost
    assert list(outage.pauses()) == []  # a later caller has one attempt
    assert outage.count == 1


def test_a_server_that_answers_again_is_not_lost() -> None:
    clock = Clock()
    outage = Outage("vc", RetryPolicy(connection=(1.0,), away=10.0), clock)
    outage.begins()
    outage.begins()
    clock.now = 60.0
    assert outage.is_lost
    outage.ends()

    assert not outage.is_lost
    assert next(outage.pauses()) == 1.0
    outage.begins()
    assert outage.count == 2
