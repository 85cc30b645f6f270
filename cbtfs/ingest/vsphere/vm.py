"""Take one restore point of a vSphere VM: ready it, snapshot it, capture, commit, clean up.

The order is law: what changed since the last point is read through a snapshot of ours, the point
is committed, and only then the snapshot goes. It goes as well after any failure; where this
process is killed, the next run on the VM finds its record and removes it.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any, Final

from cbtfs.core.moment import format_moment
from cbtfs.core.progress import RunProgress
from cbtfs.errors import CbtfsError, SourceUnavailable, StoreFailed
from cbtfs.ingest.checkpoints import CHECKPOINT_SECONDS, Checkpoints
from cbtfs.ingest.point import Announce, DiskInput, VmInput, silent, take_point
from cbtfs.ingest.vsphere.changes import Changes
from cbtfs.ingest.vsphere.disk_selection import select_disks
from cbtfs.ingest.vsphere.options import IngestOptions, LeftOut, VmIngestResult
from cbtfs.ingest.vsphere.relocation_hold import NotHeld, end_hold
from cbtfs.ingest.vsphere.resume import (
    InterruptedRun,
    ResumeRefused,
    find_interrupted,
    held_snapshot,
)
from cbtfs.ingest.vsphere.small_files import inputs_of
from cbtfs.ingest.vsphere.vm_metadata import left_out_documents, metadata_of
from cbtfs.source.base import Stopped
from cbtfs.source.transport.base import DiskReader, FrozenDisk, Held, Transport
from cbtfs.source.transport.choose import choose
from cbtfs.source.vsphere.cbt.readiness import Ready, make_ready
from cbtfs.source.vsphere.cbt.tracking import disk_notes
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import (
    DatastoreFacts,
    Machine,
    load_datastores,
    load_machine,
)
from cbtfs.source.vsphere.inventory.vm_files import Fetched, fetch_files
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import (
    Taken,
    consolidate,
    remove_named,
    still_there,
    sweep,
    take_snapshot,
)
from cbtfs.source.vsphere.snapshots.snapshot_disk import (
    SnapshotDisk,
    SnapshotTooOld,
    Watch,
    frozen_disks,
)
from cbtfs.source.vsphere.snapshots.stun import left_by_stuns
from cbtfs.store.identity import new_id
from cbtfs.store.repository import Repository
from cbtfs.store.runs import Run, RunFacts, RunFolder
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

SNAPSHOT_PREFIX: Final = "cbtfs-"
_PREFIX_ID: Final = 8


@dataclass(frozen=True, slots=True)
class IngestContext:
    """What the captures of several VMs share; all of it may be used by several threads."""

    repository: Repository
    objects: ObjectWriter
    session: Session
    transports: Sequence[Transport]
    options: IngestOptions = field(default_factory=IngestOptions)
    stop: threading.Event = field(default_factory=threading.Event)
    announce: Announce = silent
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Between two marks of how far a disk is captured."""


def ingest_machine(context: IngestContext, vm: ListedVm) -> VmIngestResult:
    """One restore point of *vm*, and nothing left behind on the server."""
    session, runs = context.session, RunFolder(context.repository.path)
    vm_id = vm.identity
    dead = runs.dead(session.server_id, vm_id)
    machine = load_machine(session, vm)
    interrupted, refusals = _look_for_interrupted(context, vm, vm_id, machine, dead)
    ours = [each.snapshot for each in dead] + left_by_stuns(machine.snapshots)
    if interrupted is not None:
        ours = []
    swept = sweep(session, vm.object, machine.snapshots, ours)
    if swept.removed:
        consolidate(session, vm.object)
        machine = load_machine(session, vm)
    holds = {each: end_hold(context.transports, session, vm, each) for each in dead}
    ready = make_ready(session, vm, machine, may_upgrade=context.options.upgrade_hardware)
    with _reporting(vm, ready):
        run = new_id()
        name = f"{SNAPSHOT_PREFIX}{context.repository.settings.id[:_PREFIX_ID]}-{run}"
        if interrupted is not None:
            name = interrupted.taken.entry.name
            ready = replace(ready, untracked=interrupted.progress.snapshot.untracked_reason)
        capture = _Capture(context, vm, ready, vm_id, run, name, interrupted)
        access = capture.foresee().access
        facts = RunFacts(run, session.server_id, vm_id, name, holds=access is not None)
        with runs.start(facts) as record:
            hold: Held = NotHeld()
            try:
                if access is not None:
                    hold = access.hold(vm.id, name)
                outcome = capture.take()
            except BaseException as exc:
                warnings = _clean_up(session, vm, record, hold)
                for warning in warnings:
                    log.warning("%s: %s", vm.path, warning)
                if warnings and isinstance(exc, SourceUnavailable):
                    _keep_what_is_captured(context)
                raise
            warnings = _clean_up(session, vm, record, hold)
        if not warnings:
            for each in dead:  # looked for again: it may have been in the making at the first look
                remove_named(session, vm.object, each.snapshot)
                if holds[each] is None:
                    runs.forget(each)
        warnings += tuple(why for why in holds.values() if why is not None)
    notes = [f"removed the snapshot {each} of a run that ended early" for each in swept.removed]
    notes += [f"has a snapshot that is left alone: {e}" for e in swept.others if e != name]
    notes += refusals
    notes += disk_notes(ready.machine)
    if ready.untracked is not None and not ready.machine.is_tracking:
        notes.append(ready.untracked.text)
    notes += [each for each in (ready.done, hold.trouble) if each is not None]
    notes += outcome.notes
    return VmIngestResult(outcome.manifest, outcome.left_out, warnings, tuple(notes))


@contextmanager
def _reporting(vm: ListedVm, ready: Ready) -> Iterator[None]:
    """Report what was changed about a machine of which no restore point comes to be."""
    try:
        yield
    except BaseException:
        if ready.done is not None:
            log.warning("%s: %s; this run takes no restore point of it", vm.path, ready.done)
        raise


def _look_for_interrupted(
    context: IngestContext, vm: ListedVm, vm_id: str, machine: Machine, dead: Sequence[RunFacts]
) -> tuple[InterruptedRun | None, list[str]]:
    """The snapshot to go on with, if there is one; if not, what is to be said about that."""
    identity = VmInput(vm.name, context.session.server_id, vm_id)
    try:
        found = find_interrupted(
            context.repository, context.session, context.options, identity, machine, dead
        )
    except ResumeRefused as why:
        return None, [f"the snapshot of a run that ended early is not taken over: {why}"]
    return found, []


def _keep_what_is_captured(context: IngestContext) -> None:
    """The snapshot stands, so the next run may take over: what is in an open pack is worth it."""
    try:
        context.objects.flush()
    except StoreFailed as exc:
        log.warning("what was captured last is lost: %s", exc)


def _clean_up(session: Session, vm: ListedVm, record: Run, held: Held) -> tuple[str, ...]:
    """Remove the snapshot, then let the disks move; what is left that should not be."""
    left, name, is_removed = [], record.facts.snapshot, False
    try:
        remove_named(session, vm.object, name)
        is_removed = True
    except CbtfsError as exc:
        left.append(f"the snapshot {name} is left behind: {exc}; the next run tries")
    try:
        held.end()
    except CbtfsError as exc:
        left.append(f"{exc}; the next run tries")
    if not left:
        record.finish()
    if is_removed and (why := consolidate(session, vm.object)) is not None:
        left.append(why)
    return tuple(left)


class _Capture:
    """What happens between the making of the snapshot and its removal."""

    def __init__(
        self,
        context: IngestContext,
        vm: ListedVm,
        ready: Ready,
        vm_id: str,
        run: str,
        name: str,
        interrupted: InterruptedRun | None,
    ) -> None:
        self._context = context
        self._vm = vm
        self._ready = ready
        self._vm_id = vm_id
        self._run = run
        self._name = name
        self._interrupted = interrupted
        self._watch = Watch(context.stop, context.options.max_snapshot_age)
        self._left_out: list[LeftOut] = []
        self._stores: dict[str, DatastoreFacts] = {}

    def take(self) -> VmIngestResult:
        context, session, vm = self._context, self._context.session, self._vm
        files = self._fetch_files()
        taken = self._taken()
        disks = self._select(taken.disks)
        frozen = self._frozen(disks, taken.entry.id, is_alone=not taken.others)
        transport, refusals = choose(context.transports, list(frozen.values()))
        stores = list(self._stores.values())
        metadata = metadata_of(session, vm, self._ready, taken, disks, stores, transport.name)
        metadata["left_out"] = left_out_documents(self._left_out)
        metadata["transports_refused"] = list(refusals)
        changes = Changes(context.repository, session, vm, self._ready, taken)
        checkpoints = self._checkpoints(taken, disks)
        if self._interrupted is not None:
            metadata["resumed"] = {
                "run": self._interrupted.progress.run,
                "not_read_bytes": checkpoints.not_read_bytes,
            }
        with ExitStack() as opened:
            inputs = []
            for disk in disks:
                source = SnapshotDisk(
                    disk.size,
                    lambda disk=disk: self._opened(transport, frozen[disk.key], metadata),  # type: ignore[misc]
                    changes.of(disk),
                    lambda: self._confirm(taken),
                    self._watch,
                )
                opened.callback(source.close)
                change_id = None if self._ready.untracked else disk.change_id
                inputs.append(
                    DiskInput(
                        disk.label,
                        source,
                        disk.identity,
                        change_id=change_id,
                        lists_discards=disk.thin is False,
                        checkpoints=checkpoints.of_disk(disk.identity, disk.label),
                    )
                )
            inputs += inputs_of(taken.config, files.files, [disk.label for disk in disks])
            manifest = take_point(
                context.repository,
                context.objects,
                VmInput(vm.name, session.server_id, self._vm_id, metadata),
                inputs,
                moment=taken.entry.created.astimezone(UTC).replace(microsecond=0),
                want=context.options.want,
                announce=context.announce,
                leave_out=lambda disk, error: self._leave_out(disk, error, metadata, disks),
                run=self._run,
                audit=context.options.audit,
            )
        notes = [*self._resumed(checkpoints), *files.notes()]
        return VmIngestResult(manifest, tuple(self._left_out), (), tuple(notes))

    def _taken(self) -> Taken:
        """A snapshot of ours: the one that is taken over, or a new one."""
        if self._interrupted is not None:
            self._watch.start(self._interrupted.age)
            return self._interrupted.taken
        self._watch.start()
        return take_snapshot(
            self._context.session,
            self._vm.object,
            self._name,
            quiesce=self._context.options.quiesce,
            is_stopped=self._context.stop.is_set,
        )

    def _checkpoints(self, taken: Taken, disks: Sequence[DiskFacts]) -> Checkpoints:
        """Where it is kept how far the disks are captured, from how far they were."""
        context, untracked = self._context, self._ready.untracked
        identity = VmInput(self._vm.name, context.session.server_id, self._vm_id)
        snapshot = held_snapshot(
            taken, disks, context.options, untracked, context.repository, identity
        )
        before = {} if self._interrupted is None else self._interrupted.progress.disks
        runs = RunFolder(context.repository.path)
        return Checkpoints(
            context.repository,
            context.objects,
            lambda data: runs.save_progress(self._run, data),
            RunProgress(self._run, snapshot, before),
            context.checkpoint_seconds,
        )

    def _resumed(self, checkpoints: Checkpoints) -> list[str]:
        if self._interrupted is None:
            return []
        entry, saved = self._interrupted.taken.entry, sum(checkpoints.not_read_bytes.values())
        created = format_moment(entry.created)
        return [
            f"took over the snapshot {entry.name} of {created} from a run that ended early: "
            f"{saved} bytes were not read again"
        ]

    def _fetch_files(self) -> Fetched:
        """Before the snapshot: meanwhile the VM's files speak of delta disks, and it is short."""
        web, machine = self._context.session.web(), self._ready.machine
        return fetch_files(web, self._datacenter, self._vm.name, machine, self._foreseen())

    def _foreseen(self) -> list[DiskFacts]:
        """The disks to capture, as far as they are known before there is a snapshot."""
        taken = None if self._interrupted is None else self._interrupted.taken
        return self._select(self._ready.machine.disks if taken is None else taken.disks)

    @property
    def _datacenter(self) -> str:
        """As the server's /folder wants it."""
        return self._vm.datacenter if self._context.session.is_vcenter else "ha-datacenter"

    def foresee(self) -> Transport:
        """Refuse before a snapshot is taken what would be refused afterwards."""
        disks = self._foreseen()
        others = self._ready.machine.snapshots
        if self._interrupted is not None:
            others = self._interrupted.taken.others
        stores = {disk.datastore for disk in disks if disk.datastore is not None}
        self._stores = load_datastores(self._context.session, stores)
        frozen = self._frozen(disks, "", is_alone=not others)
        return choose(self._context.transports, list(frozen.values())).transport

    def _select(self, disks: Sequence[DiskFacts]) -> list[DiskFacts]:
        """The disks to capture; the others make the list of what is left out."""
        found = select_disks(self._context.options, disks)
        self._left_out = found.left_out
        return found.disks

    def _frozen(
        self, disks: Sequence[DiskFacts], snapshot: str, *, is_alone: bool
    ) -> dict[int, FrozenDisk]:
        """By device key, what a transport needs to know."""
        return frozen_disks(
            self._vm,
            disks,
            self._stores,
            snapshot,
            datacenter=self._datacenter,
            is_alone=is_alone,
            host=self._ready.machine.host_id,
        )

    def _opened(
        self, transport: Transport, disk: FrozenDisk, metadata: dict[str, Any]
    ) -> DiskReader:
        """A reader of the disk; the point tells how its bytes really travel."""
        reader = transport.open(disk)
        for each in metadata["disks"]:
            if each["key"] == disk.key:
                each["transport_mode"] = reader.mode
        return reader

    def _confirm(self, taken: Taken) -> None:
        """Asked anew each time: a disk is confirmed when an audit finds something, and read on."""
        why = still_there(self._context.session, self._vm.object, taken)
        if why is not None:
            raise SourceUnavailable(f"{why}: run again")

    def _leave_out(
        self,
        disk: DiskInput,
        error: SourceUnavailable,
        metadata: dict[str, Any],
        disks: Sequence[DiskFacts],
    ) -> bool:
        if not self._context.options.allow_partial or isinstance(error, (Stopped, SnapshotTooOld)):
            return False
        key = next(each.key for each in disks if each.identity == disk.identity)
        self._left_out.append(LeftOut(disk.label, key, str(error), True))
        metadata["left_out"] = left_out_documents(self._left_out)
        return True
