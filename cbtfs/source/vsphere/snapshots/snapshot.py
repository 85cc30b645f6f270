"""The snapshot of a run: create it exactly once, find it, always remove it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.connect.faults import ObjectGone, ReplyLost, error_of, text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task import TaskGone, wait_task
from cbtfs.source.vsphere.connect.task_retry import (
    finish_task,
    is_transient,
    run_task,
    wait_before_retry,
)
from cbtfs.source.vsphere.inventory.disks import DiskFacts, disks_of
from cbtfs.source.vsphere.inventory.machine import SnapshotEntry, load_snapshots
from cbtfs.source.vsphere.inventory.properties import properties, read, retrieve, walk

log = logging.getLogger(__name__)

_DESCRIPTION: Final = "taken by cbtfs for one run; removed at its end, or by the next run"
_RUNNING: Final = ("queued", "running")
_QUIESCE: Final = (
    vim.fault.ApplicationQuiesceFault,
    vim.fault.FilesystemQuiesceFault,
    vim.fault.ToolsUnavailable,
)


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """Parameters of a snapshot to create; it never includes the memory."""

    name: str
    """A unique name, by which the snapshot is found."""
    description: str
    quiesce: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot of cbtfs with the VM configuration at that moment."""

    entry: SnapshotEntry
    config: Any
    """The VirtualMachineConfigInfo in the snapshot."""
    disks: tuple[DiskFacts, ...]
    others: tuple[SnapshotEntry, ...]
    """All other snapshots of the VM."""
    quiesce: str
    """Consistency of the snapshot, as recorded in the point."""


def take_snapshot(
    session: Session,
    vm: Any,
    name: str,
    *,
    quiesce: bool,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Taken:
    """Take a snapshot with a unique name, without memory, and return it.

    After an error, call remove_named(): the snapshot may be incomplete or in progress.
    """
    fallback = None
    if quiesce:
        fallback = _quiesced(session, vm, name, is_stopped)
    if not quiesce or fallback is not None:
        spec = SnapshotSpec(name, _DESCRIPTION)
        translate_create_faults(lambda: make_snapshot(session, vm, spec, is_stopped))
    entries = load_snapshots(session, vm)
    ours = next((entry for entry in entries if entry.name == name), None)
    if ours is None:
        raise SourceUnavailable(
            f"the snapshot {name} disappeared after it was created: see the VM's events"
        )
    if ours.is_quiesced:
        consistency = "quiesced"
    elif quiesce:
        why = fallback or "vSphere did not quiesce the guest; is VMware Tools running?"
        consistency = f"crash-consistent: {why}"
    else:
        consistency = "crash-consistent"
    return load_taken(session, entries, ours, consistency)


def load_taken(
    session: Session, entries: Sequence[SnapshotEntry], ours: SnapshotEntry, consistency: str
) -> Taken:
    """Return the data of an existing snapshot, one of *entries*."""
    config = read(session, ours.object, "config").get("config")
    if config is None:
        raise SourceUnavailable(f"the snapshot {ours.name} has no configuration")
    others = tuple(entry for entry in entries if entry.id != ours.id)
    return Taken(ours, config, tuple(disks_of(config)), others, consistency)


def translate_create_faults(call: Callable[[], None]) -> None:
    """Make a *call* that creates a snapshot; raise the error for its fault."""
    try:
        call()
    except vmodl.MethodFault as fault:
        raise error_of(fault, "take a snapshot") from fault


def _quiesced(session: Session, vm: Any, name: str, is_stopped: Callable[[], bool]) -> str | None:
    """Try a quiesced snapshot; return why that failed, None on success."""
    pauses = session.retry_policy.quiesce
    spec = SnapshotSpec(name, _DESCRIPTION, quiesce=True)
    for number in range(len(pauses) + 1):
        try:
            _translate_quiesce_faults(lambda: make_snapshot(session, vm, spec, is_stopped))
            return None
        except _QuiesceFailed as exc:
            why = str(exc)
            log.warning("quiescing failed: %s", why)
        remove_named(session, vm, name)
        if number < len(pauses):
            session.pause(pauses[number])
    return f"quiescing failed {len(pauses) + 1} times, the last time with {why}"


class _QuiesceFailed(Exception):
    """Raised when the guest could not be quiesced; the text is the fault."""


def _translate_quiesce_faults(call: Callable[[], None]) -> None:
    try:
        call()
    except vmodl.MethodFault as fault:
        if isinstance(fault, _QUIESCE) or type(fault) is vim.fault.SnapshotFault:
            raise _QuiesceFailed(text_of(fault)) from fault
        raise error_of(fault, "take a quiesced snapshot") from fault


def make_snapshot(
    session: Session, vm: Any, spec: SnapshotSpec, is_stopped: Callable[[], bool]
) -> None:
    """Create the snapshot exactly once; faults are raised unchanged."""
    name = spec.name
    what = "take a snapshot"
    pauses = session.retry_policy.busy
    is_unsure = False
    for number in range(len(pauses) + 1):
        try:
            if is_unsure and _is_made(session, vm, name):
                return
            task = session.once(
                lambda: vm.CreateSnapshot_Task(name, spec.description, False, spec.quiesce), what
            )
            wait_task(session, task, what, is_stopped=is_stopped)
            return
        except (ReplyLost, TaskGone) as exc:
            log.info("%s; checking whether the snapshot exists", exc)
            is_unsure = True  # the host may still be creating it, unknown to vCenter
            if _is_made(session, vm, name):
                return
            if number == len(pauses):
                raise SourceUnavailable(str(exc)) from exc
        except vmodl.MethodFault as fault:
            if number == len(pauses) or not is_transient(fault):
                raise
            wait_before_retry(session, fault, what, pauses[number])
        if is_stopped():
            raise Stopped(f"{what}: interrupted")


def _is_made(session: Session, vm: Any, name: str) -> bool:
    """Return whether the snapshot exists, after all pending snapshot tasks have ended."""
    settle(session, vm)
    return any(entry.name == name for entry in load_snapshots(session, vm))


def settle(session: Session, vm: Any) -> None:
    """Wait for pending snapshot tasks of this VM, one of which may be ours.

    The VM's own properties are required, too: a server that cannot read the VM follows no
    traversal, and its answer would look like one without tasks.
    """
    items = retrieve(
        session,
        vm,
        [
            properties(vim.VirtualMachine, "recentTask"),
            properties(vim.Task, "info.state", "info.descriptionId"),
        ],
        [walk("tasks", vim.VirtualMachine, "recentTask")],
    )
    for item in items:
        if isinstance(item.object, vim.VirtualMachine):
            item.require()
    for task in items:
        is_create = "createSnapshot" in str(task.values.get("info.descriptionId", ""))
        if is_create and task.values.get("info.state") in _RUNNING:
            try:
                wait_task(session, task.object, "wait for a pending snapshot task")
            except (vmodl.MethodFault, TaskGone) as ended:
                log.debug("the pending snapshot task ended: %s", type(ended).__name__)


def remove_named(session: Session, vm: Any, name: str) -> None:
    """Remove the snapshot of that name, also one in progress; do nothing if it does not exist."""
    try:
        settle(session, vm)
        for entry in load_snapshots(session, vm):
            if entry.name == name:
                _remove(session, entry)
    except ObjectGone as exc:
        log.info("the VM was removed with its snapshots: %s", exc)
    except vmodl.MethodFault as fault:
        raise error_of(fault, f"remove the snapshot {name}") from fault


def _remove(session: Session, entry: SnapshotEntry, pauses: Sequence[float] | None = None) -> None:
    what = f"remove the snapshot {entry.name}"
    try:
        run_task(session, lambda: entry.object.RemoveSnapshot_Task(False, True), what, pauses)
    except vmodl.fault.ManagedObjectNotFound:
        log.info("the snapshot %s was removed before", entry.name)


def consolidate(session: Session, vm: Any) -> str | None:
    """Consolidate the disks; return why that failed, None on success."""
    try:
        if not read(session, vm, "runtime.consolidationNeeded").get("runtime.consolidationNeeded"):
            return None
        finish_task(session, vm.ConsolidateVMDisks_Task, "consolidate the VM's disks")
    except (CbtfsError, vmodl.MethodFault) as exc:
        return f"the VM's disks need consolidation: {exc}"
    return None


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of a sweep."""

    removed: tuple[str, ...]
    others: tuple[str, ...]
    """Names of the snapshots that remain: of users, other products, other repositories."""


def sweep(
    session: Session, vm: Any, snapshots: Sequence[SnapshotEntry], stale: Sequence[str]
) -> Swept:
    """Remove the snapshots of interrupted runs, whose names are *stale*, and no others."""
    removed = []
    for entry in snapshots:
        if entry.name in stale:
            log.warning("removing the snapshot %s of an interrupted run", entry.name)
            try:
                # The interrupted run may have left an export lease, which blocks the removal.
                _remove(session, entry, session.retry_policy.after_a_lease())
            except vmodl.MethodFault as fault:
                raise error_of(fault, f"remove the snapshot {entry.name}") from fault
            removed.append(entry.name)
    others = tuple(entry.name for entry in snapshots if entry.name not in removed)
    return Swept(tuple(removed), others)


def still_there(session: Session, vm: Any, taken: Taken) -> str | None:
    """Return why data read from the snapshot cannot be trusted; None if it can."""
    if all(entry.id != taken.entry.id for entry in load_snapshots(session, vm)):
        return f"the snapshot {taken.entry.name} was removed while its disks were read"
    return None
