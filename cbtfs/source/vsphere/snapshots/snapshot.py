"""The snapshot of a run: create it exactly once, find it, always remove it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.connect.faults import ObjectGone, ReplyLost, meaning, text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task import TaskGone, wait_task
from cbtfs.source.vsphere.connect.task_retry import carry_out, done, let_pass, may_pass
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
class Taken:
    """A snapshot of cbtfs, and the configuration in it."""

    entry: SnapshotEntry
    config: Any
    """The VirtualMachineConfigInfo of that moment."""
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
    """A snapshot of that unique name, without memory.

    When it fails, remove_named() has to be called all the same: it may be half made.
    """
    fallback = None
    if quiesce:
        fallback = _quiesced(session, vm, name, is_stopped)
    if not quiesce or fallback is not None:
        with_meaning(lambda: make_snapshot(session, vm, name, _DESCRIPTION, False, is_stopped))
    entries = load_snapshots(session, vm)
    ours = next((entry for entry in entries if entry.name == name), None)
    if ours is None:
        raise SourceUnavailable(f"the snapshot {name} was made and is gone: see the VM's events")
    if ours.is_quiesced:
        words = "quiesced"
    elif quiesce:
        words = f"crash-consistent: {fallback or 'the guest was not asked, are its tools running?'}"
    else:
        words = "crash-consistent"
    return load_taken(session, entries, ours, words)


def load_taken(
    session: Session, entries: Sequence[SnapshotEntry], ours: SnapshotEntry, consistency: str
) -> Taken:
    """Return the data of an existing snapshot, one of *entries*."""
    config = read(session, ours.object, "config").get("config")
    if config is None:
        raise SourceUnavailable(f"the snapshot {ours.name} has no configuration")
    others = tuple(entry for entry in entries if entry.id != ours.id)
    return Taken(ours, config, tuple(disks_of(config)), others, consistency)


def with_meaning(call: Callable[[], None]) -> None:
    try:
        call()
    except vmodl.MethodFault as fault:
        raise meaning(fault, "take a snapshot") from fault


def _quiesced(session: Session, vm: Any, name: str, is_stopped: Callable[[], bool]) -> str | None:
    """Try a quiesced snapshot; return why that failed, None on success."""
    pauses = session.retry_policy.quiesce
    for number in range(len(pauses) + 1):
        try:
            with_meaning_of_rest(
                lambda: make_snapshot(session, vm, name, _DESCRIPTION, True, is_stopped)
            )
            return None
        except _QuiesceFailed as exc:
            why = str(exc)
            log.warning("quiescing failed: %s", why)
        remove_named(session, vm, name)
        if number < len(pauses):
            time.sleep(pauses[number])
    return f"quiescing failed {len(pauses) + 1} times, at last with {why}"


class _QuiesceFailed(Exception):
    """Raised when the guest could not be quiesced; the text is the fault."""


def with_meaning_of_rest(call: Callable[[], None]) -> None:
    try:
        call()
    except vmodl.MethodFault as fault:
        if isinstance(fault, _QUIESCE) or type(fault) is vim.fault.SnapshotFault:
            raise _QuiesceFailed(text_of(fault)) from fault
        raise meaning(fault, "take a quiesced snapshot") from fault


def make_snapshot(
    session: Session,
    vm: Any,
    name: str,
    description: str,
    quiesce: bool,
    is_stopped: Callable[[], bool],
) -> None:
    """Create the snapshot exactly once; faults are raised unchanged."""
    what = "take a snapshot"
    pauses = session.retry_policy.busy
    is_unsure = False
    for number in range(len(pauses) + 1):
        try:
            if is_unsure and _is_made(session, vm, name):
                return
            task = session.once(
                lambda: vm.CreateSnapshot_Task(name, description, False, quiesce), what
            )
            wait_task(session, task, what, is_stopped=is_stopped)
            return
        except (ReplyLost, TaskGone) as exc:
            log.info("%s; looking whether it was made", exc)
            is_unsure = True  # from now on: it may be in the making on the host, unknown to vCenter
            if _is_made(session, vm, name):
                return
            if number == len(pauses):
                raise SourceUnavailable(str(exc)) from exc
        except vmodl.MethodFault as fault:
            if number == len(pauses) or not may_pass(fault):
                raise
            let_pass(session, fault, what, pauses[number])
        if is_stopped():
            raise Stopped(f"{what}: interrupted")


def _is_made(session: Session, vm: Any, name: str) -> bool:
    """Return whether the snapshot exists, after all pending snapshot tasks have ended."""
    settle(session, vm)
    return any(entry.name == name for entry in load_snapshots(session, vm))


def settle(session: Session, vm: Any) -> None:
    """Wait for the end of snapshots of this machine that are being made: one may be ours.

    The machine itself is read too: a server that may not read it follows no traversal, and would
    otherwise answer as if there were no task.
    """
    found = retrieve(
        session,
        vm,
        [
            properties(vim.VirtualMachine, "recentTask"),
            properties(vim.Task, "info.state", "info.descriptionId"),
        ],
        [walk("tasks", vim.VirtualMachine, "recentTask")],
    )
    for machine in found:
        if isinstance(machine.object, vim.VirtualMachine):
            machine.require()
    for task in found:
        is_create = "createSnapshot" in str(task.values.get("info.descriptionId", ""))
        if is_create and task.values.get("info.state") in _RUNNING:
            try:
                wait_task(session, task.object, "wait for a snapshot that is being made")
            except (vmodl.MethodFault, TaskGone) as ended:
                log.debug("it ended: %s", type(ended).__name__)


def remove_named(session: Session, vm: Any, name: str) -> None:
    """Remove the snapshot of that name, complete or in progress; do nothing if there is none."""
    try:
        settle(session, vm)
        for entry in load_snapshots(session, vm):
            if entry.name == name:
                _remove(session, entry)
    except ObjectGone as exc:
        log.info("the VM is gone, and its snapshots with it: %s", exc)
    except vmodl.MethodFault as fault:
        raise meaning(fault, f"remove the snapshot {name}") from fault


def _remove(session: Session, entry: SnapshotEntry) -> None:
    what = f"remove the snapshot {entry.name}"
    try:
        carry_out(session, lambda: entry.object.RemoveSnapshot_Task(False, True), what)
    except vmodl.fault.ManagedObjectNotFound:
        log.info("the snapshot %s is gone already", entry.name)


def consolidate(session: Session, vm: Any) -> str | None:
    """Consolidate the disks; return why that failed, None on success."""
    try:
        if not read(session, vm, "runtime.consolidationNeeded").get("runtime.consolidationNeeded"):
            return None
        done(session, vm.ConsolidateVMDisks_Task, "consolidate the VM's disks")
    except (CbtfsError, vmodl.MethodFault) as exc:
        return f"the VM's disks need consolidation: {exc}"
    return None


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of a sweep."""

    removed: tuple[str, ...]
    others: tuple[str, ...]
    """Names of the snapshots that were kept: of users, other products, other repositories."""


def sweep(
    session: Session, vm: Any, snapshots: Sequence[SnapshotEntry], dead: Sequence[str]
) -> Swept:
    """Remove the snapshots that *dead* names, of ended runs, and no others."""
    removed = []
    for entry in snapshots:
        if entry.name in dead:
            log.warning("removing the snapshot %s of a run that ended early", entry.name)
            try:
                _remove(session, entry)
            except vmodl.MethodFault as fault:
                raise meaning(fault, f"remove the snapshot {entry.name}") from fault
            removed.append(entry.name)
    return Swept(tuple(removed), tuple(e.name for e in snapshots if e.name not in removed))


def still_there(session: Session, vm: Any, taken: Taken) -> str | None:
    """Return why data read from the snapshot cannot be trusted; None if it can."""
    if all(entry.id != taken.entry.id for entry in load_snapshots(session, vm)):
        return f"the snapshot {taken.entry.name} was removed while its disks were read"
    return None
