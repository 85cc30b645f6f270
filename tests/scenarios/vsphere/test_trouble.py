"""Fault matrix: the point is correct or absent, nothing is left, the next run recovers."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.errors import AccessDenied, CbtfsError, SourceMismatch, SourceUnavailable
from cbtfs.source.vsphere.cbt.switch import enable
from cbtfs.source.vsphere.inventory.vms import list_vms, select
from tests.scenarios.vsphere.site import (
    FIRST,
    MIB,
    SECOND,
    TRANSPORTS,
    VM,
    Lab,
    by_nbd,
    kinds,
    new_lab,
    one_vm,
    reasons,
)
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

METHODS = (
    "vimServiceVersions",
    "RetrieveServiceContent",
    "Login",
    "RetrievePropertiesEx",
    "CreateSnapshot_Task",
    "CreatePropertyCollector",
    "CreateFilter",
    "WaitForUpdatesEx",
    "DestroyPropertyCollector",
    "QueryEvents",
    "QueryChangedDiskAreas",
    "RemoveSnapshot_Task",
)
READS_BEFORE = 3
"""Property reads of a run before it asks for its snapshot."""
BOTH_FORMS = pytest.mark.parametrize("form", ["fault", "missing-set"])
"""How a server reports that the session ended: knob `session.ended_as`."""


def recovers(lab: Lab) -> None:
    """Assert that nothing is left on the server and that the next run takes a correct point."""
    assert lab.snapshots() == []
    lab.sim.do.reset_knobs()
    lab.sim.knobs.change("snapshot", keep_truth=True)
    lab.retry_policy = replace(lab.retry_policy, task=20.0)
    lab.write(700_000, b"after the trouble" * 100)
    lab.ingest()
    lab.assert_all_true()
    lab.assert_clean()


def incremental(lab: Lab) -> None:
    """Assert that a run takes a correct incremental point despite the trouble."""
    manifest = lab.ingest().manifest

    assert manifest.kind == "incremental", reasons(manifest)
    recovers(lab)


def refused(
    lab: Lab, words: str, kind: type[CbtfsError] = SourceUnavailable, **options: Any
) -> None:
    """Assert that a run takes no point."""
    with pytest.raises(kind, match=words):
        lab.ingest(**options)
    assert len(list((lab.repository / "points").glob("*.state"))) == len(lab.points)
    recovers(lab)


# sessions


@pytest.mark.parametrize("action", ["lost-request", "lost-reply", "garbage"])
@pytest.mark.parametrize("method", METHODS[1:])
def test_a_lost_call_is_repeated(tracked: Lab, method: str, action: str) -> None:
    tracked.sim.do.on_call(method, action=action)
    incremental(tracked)


@pytest.mark.parametrize(
    "method", ["RetrieveServiceContent", "CreateSnapshot_Task", "WaitForUpdatesEx"]
)
def test_a_server_that_is_starting_is_waited_for(tracked: Lab, method: str) -> None:
    tracked.sim.do.on_call(method, action="status", status=503, times=2)
    incremental(tracked)


@BOTH_FORMS
@pytest.mark.parametrize("method", METHODS[1:])
def test_a_session_may_end_before_any_call(tracked: Lab, method: str, form: str) -> None:
    tracked.sim.knobs.change("session", ended_as=form)
    tracked.sim.do.on_call(method, action="expire-session")
    incremental(tracked)


@BOTH_FORMS
@pytest.mark.parametrize("number", range(1, 10))
def test_a_session_may_end_before_any_reading_of_properties(
    tracked: Lab, number: int, form: str
) -> None:
    tracked.sim.knobs.change("session", ended_as=form)
    tracked.sim.do.on_call("RetrievePropertiesEx", action="expire-session", at=number)
    incremental(tracked)


@BOTH_FORMS
@pytest.mark.parametrize("method", ["CreateSnapshot_Task", "RemoveSnapshot_Task"])
def test_a_session_may_end_with_the_reply_of_a_task_lost(
    tracked: Lab, method: str, form: str
) -> None:
    tracked.sim.knobs.change("session", ended_as=form)
    tracked.sim.knobs.change("task", seconds=0.1)
    tracked.sim.do.on_call(method, action="lost-reply")
    tracked.sim.do.on_call(method, action="expire-session")
    tracked.ingest()
    calls = tracked.sim.do.calls()

    assert calls.count("CreateSnapshot_Task") == (2 if method == "CreateSnapshot_Task" else 1)
    recovers(tracked)


@BOTH_FORMS
def test_a_snapshot_whose_reply_is_lost_is_found_after_the_new_login(
    tracked: Lab, form: str
) -> None:
    """The session ends just after the snapshot began, before it could be looked up."""
    tracked.sim.knobs.change("session", ended_as=form)
    tracked.sim.knobs.change("task", seconds=0.1)
    tracked.sim.do.calls(clear=True)
    tracked.sim.do.on_call("CreateSnapshot_Task", action="lost-reply")
    tracked.sim.do.on_call("RetrievePropertiesEx", action="expire-session", at=READS_BEFORE + 1)
    tracked.ingest()
    calls = tracked.sim.do.calls()

    after = calls[calls.index("CreateSnapshot_Task") :]
    assert calls.count("CreateSnapshot_Task") == 1
    assert calls[: calls.index("CreateSnapshot_Task")].count("RetrievePropertiesEx") == READS_BEFORE
    assert after[:4] == [
        "CreateSnapshot_Task",
        "RetrievePropertiesEx",
        "Login",
        "RetrievePropertiesEx",
    ]
    recovers(tracked)


def test_the_result_of_a_task_without_a_state_is_looked_up(tracked: Lab) -> None:
    tracked.sim.do.on_call(
        "WaitForUpdatesEx", action="missing", fault="vmodl.fault.HostCommunication", times=4
    )
    incremental(tracked)
    assert tracked.sim.do.calls().count("CreateSnapshot_Task") == 2  # one for each run


def test_a_task_that_may_not_be_read_ends_the_run(tracked: Lab) -> None:
    tracked.sim.do.on_call(
        "WaitForUpdatesEx",
        action="missing",
        fault="vim.fault.NoPermission",
        fields={"privilegeId": "System.Read"},
    )
    refused(tracked, "lacks the privilege System.Read", AccessDenied)


@BOTH_FORMS
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_may_end_between_two_reads(tracked: Lab, transport: str, form: str) -> None:
    tracked.sim.knobs.change("session", ended_as=form)
    tracked.make_transport = TRANSPORTS[transport]
    tracked.sim.do.on_read(action="operation", operation="end_sessions", times=1)
    incremental(tracked)


def test_a_session_that_ends_again_and_again_is_given_up(tracked: Lab) -> None:
    tracked.sim.do.on_call("QueryEvents", action="expire-session", times=100)
    manifest = tracked.ingest().manifest

    assert "cannot read the VM's events" in manifest.reason
    recovers(tracked)


def test_a_wrong_password_is_tried_once(tracked: Lab) -> None:
    tracked.sim.do.on_call("Login", fault="vim.fault.InvalidLogin", times=100)
    refused(tracked, "rejects the user or password", AccessDenied)


def test_a_password_that_is_changed_meanwhile_is_tried_once(tracked: Lab) -> None:
    tracked.sim.do.on_call("Login", fault="vim.fault.InvalidLogin", at=2, times=100)
    tracked.sim.do.on_call("CreateSnapshot_Task", action="expire-session")
    with pytest.raises(AccessDenied, match="rejects the user"):
        tracked.ingest()

    assert tracked.sim.do.calls(clear=True).count("Login") == 2
    tracked.sim.do.reset_knobs()
    tracked.sim.knobs.change("snapshot", keep_truth=True)
    tracked.ingest()
    tracked.assert_clean()


@pytest.mark.parametrize(
    "privilege",
    ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.Provisioning.DiskRandomRead"],
)
def test_a_missing_privilege_is_named(tracked: Lab, privilege: str) -> None:
    method = "CreateSnapshot_Task" if "Snapshot" in privilege else "QueryChangedDiskAreas"
    tracked.sim.do.on_call(
        method, fault="vim.fault.NoPermission", fields={"privilegeId": privilege}, times=100
    )
    refused(tracked, privilege, AccessDenied)


# tasks


def test_a_snapshot_whose_reply_is_lost_is_taken_once(tracked: Lab) -> None:
    tracked.sim.do.on_call("CreateSnapshot_Task", action="lost-reply")
    tracked.ingest()

    assert tracked.sim.do.calls().count("CreateSnapshot_Task") == 1
    recovers(tracked)


def test_a_run_waits_for_a_snapshot_in_progress_whose_reply_is_lost(tracked: Lab) -> None:
    tracked.sim.knobs.change("task", seconds=0.3)
    tracked.sim.do.on_call("CreateSnapshot_Task", action="lost-reply")
    tracked.ingest()

    assert tracked.sim.do.calls().count("CreateSnapshot_Task") == 1
    recovers(tracked)


def test_updates_may_come_one_by_one(tracked: Lab) -> None:
    tracked.sim.knobs.change("session", updates_per_set=1, objects_per_page=1)
    incremental(tracked)


def test_a_task_that_does_not_end_is_cancelled(tracked: Lab) -> None:
    tracked.retry_policy = replace(tracked.retry_policy, task=1.0)
    tracked.sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    refused(tracked, "cancelled, because it did not end in 1 s")


def test_the_result_of_a_forgotten_task_is_looked_up(tracked: Lab) -> None:
    tracked.sim.do.on_call("CreateFilter", action="operation", operation="forget_tasks", times=2)
    incremental(tracked)


@pytest.mark.parametrize("form", ["task", "call"])
def test_another_operation_is_waited_for(tracked: Lab, form: str) -> None:
    tracked.sim.knobs.change("task", in_progress_as=form)
    tracked.sim.do.on_call(
        "CreateSnapshot_Task", action="task-fault", fault="vim.fault.TaskInProgress"
    )
    incremental(tracked)


@pytest.mark.parametrize(
    "fault",
    ["vim.fault.InvalidState", "vim.fault.MethodDisabled", "vmodl.fault.HostNotConnected"],
)
def test_a_temporary_fault_of_the_snapshot_is_retried(tracked: Lab, fault: str) -> None:
    tracked.sim.do.on_call("CreateSnapshot_Task", action="task-fault", fault=fault, times=2)
    incremental(tracked)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("vim.fault.NoDiskSpace", "free space"),
        ("vim.fault.TooManySnapshotLevels", "remove snapshots"),
        ("vim.fault.QuestionPending", "answer the VM's question"),
        ("vim.fault.InvalidPowerState", "InvalidPowerState"),
        ("vim.fault.RestrictedVersion", "license"),
        ("vim.fault.InvalidState", "InvalidState"),
    ],
)
@pytest.mark.parametrize("action", ["task-fault", "task-fault-after"])
def test_a_permanent_fault_of_the_snapshot_ends_the_run(
    tracked: Lab, fault: str, words: str, action: str
) -> None:
    tracked.sim.do.on_call("CreateSnapshot_Task", action=action, fault=fault, times=100)
    refused(tracked, words)


# snapshots


@pytest.mark.parametrize("how", ["application", "filesystem", "tools"])
def test_a_guest_that_cannot_be_quiesced_is_captured_nevertheless(tracked: Lab, how: str) -> None:
    tracked.sim.knobs.change("snapshot", quiesce=how)
    manifest = tracked.ingest(quiesce=True).manifest

    assert tracked.sim.do.calls().count("CreateSnapshot_Task") == 4
    consistency = manifest.metadata["snapshot"]["consistency"]
    assert consistency.startswith("crash-consistent: quiescing failed 3 times")
    recovers(tracked)


def test_quiescing_is_tried_again(tracked: Lab) -> None:
    tracked.sim.do.on_call(
        "CreateSnapshot_Task", action="task-fault", fault="vim.fault.ApplicationQuiesceFault"
    )
    manifest = tracked.ingest(quiesce=True).manifest

    assert manifest.metadata["snapshot"]["consistency"] == "quiesced"
    recovers(tracked)


def test_a_snapshot_without_quiescing_is_not_recorded_as_quiesced(tracked: Lab) -> None:
    tracked.sim.do.tools(VM, False)
    manifest = tracked.ingest(quiesce=True).manifest

    assert "did not quiesce the guest" in manifest.metadata["snapshot"]["consistency"]
    recovers(tracked)


def test_a_snapshot_removed_while_it_is_read_costs_the_point(tracked: Lab) -> None:
    stop = threading.Event()

    def remove(label: str, size: int) -> Callable[[int], None]:
        if tracked.snapshots():
            tracked.sim.do.remove_snapshot(tracked.snapshots()[0])
        return lambda count: None

    with pytest.raises((SourceUnavailable, SourceMismatch)):
        tracked.ingest(on_disk=remove, stop=stop)
    recovers(tracked)


def test_a_snapshot_of_another_product_costs_a_full_and_stays(tracked: Lab) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.do.snapshot(VM, "theirs")
    during = tracked.ingest()
    assert tracked.snapshots() == ["theirs"]
    tracked.sim.do.remove_snapshot("theirs")
    after = tracked.ingest().manifest

    assert "does not belong to this repository: theirs" in during.manifest.reason
    assert "another snapshot is kept: theirs" in during.notes
    assert "at the last point" in after.reason
    incremental(tracked)


def test_the_datastore_transport_refuses_a_vm_with_another_snapshot(tracked: Lab) -> None:
    tracked.sim.do.snapshot(VM, "theirs")
    with pytest.raises(SourceUnavailable, match="has another snapshot"):
        tracked.ingest()
    assert "CreateSnapshot_Task" not in tracked.sim.do.calls()
    tracked.sim.do.remove_snapshot("theirs")
    incremental(tracked)


def test_tracking_is_not_enabled_while_there_is_a_snapshot(lab: Lab) -> None:
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.do.snapshot(VM, "theirs")
    lab.ingest()
    outcome = lab.ingest()
    manifest = outcome.manifest

    assert "ReconfigVM_Task" not in lab.sim.do.calls()
    assert "cannot be enabled: the VM has a snapshot, theirs" in manifest.reason
    assert any("cannot be enabled: the VM has a snapshot, theirs" in note for note in outcome.notes)
    lab.assert_all_true()


def test_disks_that_need_consolidation_are_consolidated(tracked: Lab) -> None:
    tracked.sim.knobs.change("snapshot", needs_consolidation=True)
    outcome = tracked.ingest()

    assert outcome.is_whole
    assert "ConsolidateVMDisks_Task" in tracked.sim.do.calls()
    assert not tracked.sim.do.vms()[0]["consolidation_needed"]
    recovers(tracked)


def test_consolidation_that_fails_is_reported(tracked: Lab) -> None:
    tracked.sim.knobs.change("snapshot", needs_consolidation=True, consolidate_locked=True)
    outcome = tracked.ingest()

    assert "need consolidation" in outcome.warnings[0]
    assert not outcome.is_whole
    tracked.assert_true(outcome.manifest)


def test_readers_are_closed_before_the_snapshot_is_removed(tracked: Lab) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.knobs.change("snapshot", locked_by_readers=True)
    tracked.ingest()

    assert not tracked.sim.do.vms()[0]["consolidation_needed"]
    recovers(tracked)


def test_a_snapshot_that_cannot_be_removed_is_removed_by_the_next_run(tracked: Lab) -> None:
    tracked.sim.do.on_call("RemoveSnapshot_Task", fault="vmodl.fault.SystemError", times=100)
    outcome = tracked.ingest()
    left = tracked.snapshots()
    tracked.sim.do.clear_rules()

    assert "left behind" in outcome.warnings[0]
    assert len(left) == 1
    tracked.write(900_000, b"while it was there")
    again = tracked.ingest()
    assert f"removed the snapshot {left[0]} of an interrupted run" in again.notes
    assert again.manifest.kind == "incremental"
    recovers(tracked)


def test_a_snapshot_that_grows_too_old_costs_the_point(tracked: Lab) -> None:
    refused(tracked, "older than --max-snapshot-age", max_snapshot_age=0.0)


def test_a_disk_is_not_left_out_because_the_snapshot_is_too_old(tracked: Lab) -> None:
    refused(tracked, "max-snapshot-age", max_snapshot_age=0.0, allow_partial=True)


def test_an_interrupt_removes_the_snapshot(tracked: Lab) -> None:
    stop = threading.Event()

    def interrupt(label: str, size: int) -> Callable[[int], None]:
        stop.set()
        return lambda count: None

    with pytest.raises(SourceUnavailable, match="interrupted"):
        tracked.ingest(on_disk=interrupt, stop=stop, allow_partial=True)
    recovers(tracked)


def test_an_interrupt_cancels_the_snapshot_that_is_being_made(tracked: Lab) -> None:
    stop = threading.Event()
    tracked.sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    tracked.sim.do.calls(clear=True)

    def interrupt() -> None:
        tracked.sim.do.wait_call("WaitForUpdatesEx")
        stop.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SourceUnavailable, match="interrupted"):
        tracked.ingest(stop=stop)
    thread.join()
    recovers(tracked)


# changes


def full(lab: Lab, words: str) -> None:
    """Assert a full of the first disk only, with that reason, and an incremental afterwards."""
    manifest = lab.ingest().manifest

    assert kinds(manifest) == ["full", "incremental"], reasons(manifest)
    assert words in manifest.disks[0].reason
    recovers(lab)
    assert lab.points[-1].kind == "incremental"


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ("echo", "starts at"),
        ("zero-length", "has length 0"),
        ("overlap", "out of order"),
        ("unsorted", "out of order"),
        ("outside", "not within its page"),
        ("past-end", "not within its page"),
        ("empty-extent", "has length 0"),
    ],
)
def test_an_answer_that_breaks_a_rule_costs_a_full_of_that_disk(
    tracked: Lab, knob: str, words: str
) -> None:
    tracked.write(1_500_000, b"a second area")
    tracked.sim.do.set_disk_cbt(VM, FIRST, malformed=knob, max_extents=1)
    manifest = tracked.ingest().manifest

    assert kinds(manifest) == ["full", "incremental"], reasons(manifest)
    assert words in manifest.disks[0].reason
    tracked.sim.do.set_disk_cbt(VM, FIRST)
    recovers(tracked)


@pytest.mark.parametrize(
    "fault",
    [
        "vim.fault.FileFault",
        "vmodl.fault.InvalidArgument",
        "vim.fault.NotFound",
        "vmodl.fault.SystemError",
    ],
)
def test_a_query_that_fails_costs_a_full_of_that_disk(tracked: Lab, fault: str) -> None:
    tracked.sim.do.on_call("QueryChangedDiskAreas", fault=fault)
    full(tracked, f"the change query failed: {fault.rpartition('.')[2]}")


@pytest.mark.parametrize(
    "knobs",
    [
        {"max_extents": 1},
        {"max_extents": 1, "cut_at": "next-start"},
        {"max_extents": 2, "cut_at": "middle"},
        {"empty_pages": True},
        {"page_span": 65536},
        {"page_span": 1_000_000},
        {"false_positives": 5, "seed": 3},
        {"sequence_step": 7},
        {"star": "fault"},
    ],
    ids=str,
)
def test_any_paging_gives_the_same_point(tracked: Lab, knobs: dict[str, Any]) -> None:
    for number in range(8):
        tracked.write(number * 250_000, b"one of several areas")
    tracked.sim.knobs.change("cbt", **knobs)
    incremental(tracked)


def test_restarted_tracking_causes_a_full(tracked: Lab) -> None:
    tracked.sim.do.reset_tracking(VM, FIRST)
    full(tracked, "was restarted")


def test_restarted_tracking_is_noticed_although_the_server_answers(tracked: Lab) -> None:
    tracked.sim.knobs.change("cbt", ignore_stale=True)
    tracked.sim.do.reset_tracking(VM, FIRST)
    full(tracked, "was restarted")


def test_a_sequence_number_that_does_not_rise_causes_a_full(tracked: Lab) -> None:
    tracked.ingest()
    tracked.sim.knobs.change("cbt", same_sequence=True, sequence_step=0)
    manifest = tracked.ingest().manifest

    assert "did not increase" in manifest.reason
    recovers(tracked)


def test_a_power_loss_costs_a_full(tracked: Lab) -> None:
    tracked.sim.do.power(VM, "crash")
    tracked.sim.do.power(VM, "on")
    manifest = tracked.ingest().manifest

    assert kinds(manifest) == ["full", "full"]
    assert "was restarted" in manifest.reason
    recovers(tracked)


def test_tracking_that_was_disabled_is_enabled_again(tracked: Lab) -> None:
    tracked.sim.do.set_cbt(VM, False)
    tracked.sim.do.stun(VM)
    tracked.write(0, b"while nobody looked")
    outcome = tracked.ingest()

    assert "change tracking enabled" in outcome.notes
    assert outcome.manifest.kind == "full"
    recovers(tracked)
    assert tracked.points[-1].kind == "incremental"


def test_a_disk_with_its_own_setting_off_gets_a_full_and_is_named(tracked: Lab) -> None:
    tracked.sim.do.set_disk_tracking(VM, SECOND, False)
    first = tracked.ingest()
    second = tracked.ingest()
    with tracked.session() as session:
        (vm,) = select(list_vms(session), VM)
        enable(session, vm)
    third, fourth = tracked.ingest(), tracked.ingest()

    assert kinds(second.manifest) == ["incremental", "full"]
    assert "scsi0:1.ctkEnabled is not TRUE" in second.manifest.disks[1].reason
    note = (
        "disk Hard disk 2 is not tracked and is read completely by each run: the VM's setting "
        "scsi0:1.ctkEnabled is not TRUE; run 'cbtfs cbt enable'"
    )
    assert note in first.notes
    assert note in second.notes
    assert note not in third.notes
    assert kinds(fourth.manifest) == ["incremental", "incremental"]
    tracked.assert_all_true()


def test_a_linked_clone_is_tracked(certificate: Certificate, tmp_path: Path) -> None:
    """Its disks have parents, but it has no snapshot."""
    inventory = one_vm(DiskEntry(size=MIB, linked=True))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_nbd)
        lab.write(0, b"before")
        first = lab.ingest()
        lab.write(500_000, b"after")
        second = lab.ingest()

        lab.make_transport = TRANSPORTS["datastore"]
        with pytest.raises(SourceUnavailable, match="a parent as in a linked clone"):
            lab.ingest()
        lab.make_transport = by_nbd
        assert "change tracking enabled" in first.notes
        assert kinds(second.manifest) == ["incremental"], reasons(second.manifest)
        recovers(lab)


def test_a_vm_in_a_datacenter_in_a_folder_is_captured(
    certificate: Certificate, tmp_path: Path
) -> None:
    inventory = replace(one_vm(), datacenter_folders={"DC0": "europe/north sea"})
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.write(0, b"far away")
        lab.ingest()

        recovers(lab)


def test_tracking_is_not_enabled_if_a_snapshot_comes_just_before(lab: Lab) -> None:
    """The server refuses the task because the configuration has changed since it was read."""
    lab.make_transport = TRANSPORTS["nbd"]
    lab.sim.do.on_call(
        "ReconfigVM_Task",
        action="operation",
        operation="snapshot",
        arguments={"vm": VM, "name": "theirs"},
    )
    outcome = lab.ingest()

    why = "change tracking is off and cannot be enabled: the VM has a snapshot, theirs"
    assert not lab.sim.do.vms()[0]["cbt"]
    assert why in outcome.notes
    assert "change tracking enabled" not in outcome.notes
    lab.assert_all_true()


def test_a_run_that_fails_after_it_enabled_tracking_reports_that(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.sim.do.on_read(action="eio")
    refused(lab, "cannot read")

    assert "change tracking enabled; this run takes no restore point" in caplog.text


def test_a_snapshot_without_change_ids_gives_no_base(tracked: Lab) -> None:
    tracked.sim.knobs.change("cbt", no_change_id=True)
    first = tracked.ingest().manifest
    tracked.sim.knobs.change("cbt", no_change_id=False)
    second = tracked.ingest().manifest

    assert [disk.change_id for disk in first.of_kind("disk")] == [None, None]
    assert "no change ID" in first.reason
    assert "the last point has no change ID" in second.reason
    incremental(tracked)


@pytest.mark.parametrize("how", ["new-epoch", "keep-epoch", "keep-id"])
def test_a_revert_causes_a_full_whatever_the_change_ids_are(tracked: Lab, how: str) -> None:
    tracked.sim.knobs.change("cbt", revert=how)
    snapshot = tracked.sim.do.snapshot(VM, "theirs")
    tracked.write(0, b"what the revert discards" * 10_000)
    tracked.ingest_with_nbd()
    tracked.sim.do.revert(snapshot)
    tracked.sim.do.remove_snapshot(snapshot)
    tracked.write(1_000_000, b"after the revert")
    manifest = tracked.ingest().manifest

    assert manifest.kind == "full"
    recovers(tracked)


def test_a_revert_alone_is_noticed(tracked: Lab) -> None:
    tracked.sim.knobs.change("cbt", revert="keep-epoch")
    tracked.write(0, b"what the revert discards" * 10_000)
    snapshot = tracked.sim.do.snapshot(VM, "theirs")
    tracked.write(500_000, b"x" * 300_000)
    tracked.sim.do.revert(snapshot)
    tracked.sim.do.remove_snapshot(snapshot)
    manifest = tracked.ingest().manifest

    assert "reverted to a snapshot" in manifest.reason
    recovers(tracked)


def test_a_long_interval_causes_a_full(tracked: Lab) -> None:
    tracked.sim.do.advance(31 * 86400)
    manifest = tracked.ingest().manifest

    assert "older than 30 days" in manifest.reason
    recovers(tracked)


# data


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_unreadable_data_costs_the_point(tracked: Lab, transport: str) -> None:
    tracked.make_transport = TRANSPORTS[transport]
    tracked.sim.do.on_read(action="eio")
    refused(tracked, "disk Hard disk 1: cannot read")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unreadable_disk_can_be_left_out(tracked: Lab, transport: str) -> None:
    tracked.make_transport = TRANSPORTS[transport]
    name = "*_1-flat.vmdk" if transport == "datastore" else "*/2001"
    tracked.write(0, b"changed", disk=SECOND)
    tracked.sim.do.on_read(action="eio", export=name)
    outcome = tracked.ingest(allow_partial=True)

    assert [disk.label for disk in outcome.manifest.of_kind("disk")] == ["Hard disk 1"]
    assert [disk.disk for disk in outcome.left_out] == ["Hard disk 2"]
    assert "cannot read" in outcome.manifest.metadata["left_out"][0]["reason"]
    assert not outcome.is_whole
    recovers(tracked)
    assert kinds(tracked.points[-1]) == ["incremental", "incremental"]


def test_no_point_is_committed_without_any_disk(tracked: Lab) -> None:
    tracked.write(0, b"changed", disk=SECOND)
    tracked.sim.do.on_read(action="eio")
    refused(tracked, "cannot read", allow_partial=True)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("action", ["close", "short"])
def test_a_broken_connection_is_reopened(tracked: Lab, transport: str, action: str) -> None:
    tracked.make_transport = TRANSPORTS[transport]
    tracked.sim.do.on_read(action=action, times=2)
    incremental(tracked)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_connection_that_always_breaks_costs_the_point(tracked: Lab, transport: str) -> None:
    tracked.make_transport = TRANSPORTS[transport]
    tracked.sim.do.on_read(action="close")
    refused(tracked, "disk Hard disk 1")


@pytest.mark.parametrize("delta", [-512, 512])
def test_an_export_of_another_size_is_another_disk(tracked: Lab, delta: int) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.knobs.change("data", size_delta=delta)
    refused(tracked, "it is another disk")


def test_a_server_without_ranges_is_refused(tracked: Lab) -> None:
    tracked.sim.knobs.change("data", ranges=False)
    refused(tracked, "ignores the Range header")


def test_an_nbd_server_with_too_few_connections_costs_the_point(tracked: Lab) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.knobs.change("data", max_readers=1)
    tracked.write(0, b"all over" * (MIB // 8))
    refused(tracked, "cannot open", want="full")


@pytest.mark.parametrize("holes", ["zero", "hole", "none"])
def test_holes_are_zeros_only_if_the_server_reports_zeros(tracked: Lab, holes: str) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.knobs.change("data", holes=holes)
    manifest = tracked.ingest(want="full").manifest

    is_sparse = manifest.disks[0].counts.read_bytes < manifest.disks[0].size
    assert is_sparse == (holes == "zero")
    recovers(tracked)


def test_a_server_with_large_blocks_gets_aligned_requests(tracked: Lab) -> None:
    tracked.make_transport = TRANSPORTS["nbd"]
    tracked.sim.knobs.change("data", min_block=16384)
    tracked.sim.do.set_disk_cbt(VM, FIRST, false_positives=3)
    incremental(tracked)
