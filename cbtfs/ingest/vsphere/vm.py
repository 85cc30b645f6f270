"""Take one restore point of a vSphere VM: clean up, prepare, snapshot, read, commit, clean up.

The order is essential. Changes since the last point are queried through a snapshot of this run,
then the point is committed, and only then the snapshot is removed. It is also removed after any
error; after SIGKILL the next run on the VM finds the record of the run and removes it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import format_moment
from cbtfs.errors import CbtfsError, SourceUnavailable, StoreFailed
from cbtfs.ingest.vsphere import steps
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import LeftOut, VmIngestResult
from cbtfs.ingest.vsphere.relocation_hold import NotHeld, end_hold
from cbtfs.ingest.vsphere.resume import InterruptedRun, ResumeRefused, find_interrupted
from cbtfs.ingest.vsphere.steps import PreparedVm
from cbtfs.source.transport.base import Held
from cbtfs.source.vsphere.cbt.readiness import Ready, make_ready
from cbtfs.source.vsphere.cbt.tracking import disk_notes
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.machine import Machine, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import Swept, consolidate, remove_named, sweep
from cbtfs.source.vsphere.snapshots.stun import left_by_stuns
from cbtfs.store.runs import Run, RunFacts, RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _StaleRuns:
    """State of a VM after the leftovers of earlier runs were removed."""

    machine: Machine
    runs: Sequence[RunFacts]
    interrupted: InterruptedRun | None
    """The run that is resumed; then no snapshot was removed."""
    swept: Swept
    hold_troubles: Mapping[RunFacts, str | None]
    """Why the hold of a run could not be ended; None if it was."""
    notes: Sequence[str]
    """Why no run is resumed."""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A committed point, after the clean-up."""

    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    """Failures of the clean-up."""
    notes: tuple[str, ...]


def ingest_machine(context: IngestContext, vm: ListedVm) -> VmIngestResult:
    """Take one restore point of *vm*, and leave nothing behind on the server."""
    stale = _clean_up_stale_runs(context, vm)
    upgrade = context.options.upgrade_hardware
    ready = make_ready(context.session, vm, stale.machine, may_upgrade=upgrade)
    with _reporting(vm, ready):
        prepared = steps.prepare(context, vm, ready, stale.interrupted)
        captured = _capture(context, prepared)
        if not captured.warnings:
            _forget(context, vm, stale)
    troubles = tuple(text for text in stale.hold_troubles.values() if text is not None)
    others = [name for name in stale.swept.others if name != prepared.snapshot_name]
    notes = [f"removed the snapshot {name} of an interrupted run" for name in stale.swept.removed]
    notes += [f"another snapshot is kept: {name}" for name in others]
    notes += stale.notes
    notes += disk_notes(prepared.ready.machine)
    untracked = prepared.ready.untracked
    if untracked is not None and not prepared.ready.machine.is_tracking:
        notes.append(untracked.text)
    if ready.done is not None:
        notes.append(ready.done)
    notes += captured.notes
    warnings = (*captured.warnings, *troubles)
    return VmIngestResult(captured.manifest, captured.left_out, warnings, tuple(notes))


def _clean_up_stale_runs(context: IngestContext, vm: ListedVm) -> _StaleRuns:
    """Remove snapshots and end holds of earlier runs, except those of a run that is resumed."""
    session = context.session
    stale = RunFolder(context.repository.path).dead(session.server_id, vm.identity)
    machine = load_machine(session, vm)
    interrupted, notes = None, list[str]()
    try:
        interrupted = find_interrupted(context, vm, machine, stale)
    except ResumeRefused as reason:
        notes.append(f"cannot resume from the snapshot of an interrupted run: {reason}")
    names = [] if interrupted is not None else [facts.snapshot for facts in stale]
    if interrupted is None:
        names += left_by_stuns(machine.snapshots)
    swept = sweep(session, vm.object, machine.snapshots, names)
    if swept.removed:
        consolidate(session, vm.object)
        machine = load_machine(session, vm)
    holds = {facts: end_hold(context.transports, session, vm, facts) for facts in stale}
    return _StaleRuns(machine, stale, interrupted, swept, holds, notes)


def _forget(context: IngestContext, vm: ListedVm, stale: _StaleRuns) -> None:
    """Remove the records of earlier runs that left nothing behind."""
    runs = RunFolder(context.repository.path)
    for facts in stale.runs:
        # Once more: the snapshot may have been in progress at the first look.
        remove_named(context.session, vm.object, facts.snapshot)
        if stale.hold_troubles[facts] is None:
            runs.forget(facts)


@contextmanager
def _reporting(vm: ListedVm, ready: Ready) -> Iterator[None]:
    """Log the changes made to a VM if no restore point is taken that would report them."""
    try:
        yield
    except BaseException:
        if ready.done is not None:
            log.warning("%s: %s; this run takes no restore point", vm.path, ready.done)
        raise


def _capture(context: IngestContext, prepared: PreparedVm) -> _Captured:
    """Take the snapshot, read and commit; then remove the snapshot, also after an error."""
    session, vm = context.session, prepared.vm
    access = prepared.transport.access
    facts = RunFacts(
        prepared.run,
        session.server_id,
        vm.identity,
        prepared.snapshot_name,
        holds=access is not None,
    )
    with RunFolder(context.repository.path).start(facts) as record:
        hold: Held = NotHeld()
        try:
            if access is not None:
                hold = access.hold(vm.id, prepared.snapshot_name)
            captured = _take(context, prepared)
        except BaseException as exc:
            warnings = _clean_up(session, vm, record, hold)
            for warning in warnings:
                log.warning("%s: %s", vm.path, warning)
            if warnings and isinstance(exc, SourceUnavailable):
                _keep_captured(context)
            raise
        warnings = _clean_up(session, vm, record, hold)
    trouble = [] if hold.trouble is None else [hold.trouble]
    notes = (*trouble, *captured.notes)
    return _Captured(captured.manifest, captured.left_out, warnings, notes)


def _take(context: IngestContext, prepared: PreparedVm) -> _Captured:
    snap = steps.snapshot(context, prepared)
    with ExitStack() as opened:
        reading = steps.read(context, prepared, snap, opened)
        manifest = steps.commit(context, prepared, snap, reading)
    notes = []
    if reading.resumed is not None:
        entry, saved = snap.taken.entry, sum(reading.resumed.not_read_bytes.values())
        notes.append(
            f"resumed an interrupted run from its snapshot {entry.name} of "
            f"{format_moment(entry.created)}: {saved} bytes were not read again"
        )
    if snap.choice.transport.name == "httpnfc" and snap.choice.refusals:
        notes.append(
            f"exported the whole disks (httpnfc): no other transport can read them: "
            f"{'; '.join(snap.choice.refusals)}"
        )
    notes += snap.files.notes()
    return _Captured(manifest, reading.left_out, (), tuple(notes))


def _keep_captured(context: IngestContext) -> None:
    """Close the open pack: the snapshot still exists, so the next run may resume."""
    try:
        context.objects.flush()
    except StoreFailed as exc:
        log.warning("the data captured last is lost: %s", exc)


def _clean_up(session: Session, vm: ListedVm, record: Run, held: Held) -> tuple[str, ...]:
    """Remove the snapshot, then end the hold; return what could not be cleaned up."""
    warnings, name, is_removed = [], record.facts.snapshot, False
    try:
        remove_named(session, vm.object, name)
        is_removed = True
    except CbtfsError as exc:
        warnings.append(f"the snapshot {name} is left behind: {exc}; the next run tries again")
    try:
        held.end()
    except CbtfsError as exc:
        warnings.append(f"{exc}; the next run tries again")
    if not warnings:
        record.finish()
    if is_removed and (reason := consolidate(session, vm.object)) is not None:
        warnings.append(reason)
    return tuple(warnings)
