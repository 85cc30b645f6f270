"""The four steps of a capture of a VM: prepare, snapshot, read, commit.

The caller removes the snapshot after commit(), or after any error. If the process is killed, the
next run on the VM finds the record of this run and removes its snapshot.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Final

from cbtfs.core.manifest import Manifest
from cbtfs.core.progress import RunProgress
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.allocation import AskAllocation, Claim
from cbtfs.ingest.checkpoints import Checkpoints
from cbtfs.ingest.inputs import DiskInput, PointOptions
from cbtfs.ingest.point import TakenPoint, bases_of, commit_point, take_point
from cbtfs.ingest.vsphere.allocation import SnapshotFacts, ask_allocation
from cbtfs.ingest.vsphere.changes import Changes
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.disk_selection import DiskSelection, select_disks
from cbtfs.ingest.vsphere.options import LeftOut
from cbtfs.ingest.vsphere.resume import InterruptedRun, held_snapshot
from cbtfs.ingest.vsphere.small_files import inputs_of
from cbtfs.ingest.vsphere.vm_metadata import (
    DiskMetadata,
    ResumedMetadata,
    TransportMetadata,
    VmMetadata,
)
from cbtfs.source.base import Stopped
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.transport.choose import Choice, choose
from cbtfs.source.vsphere.cbt.readiness import Ready, untracked_disk
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import DatastoreFacts, load_datastores
from cbtfs.source.vsphere.inventory.vm_files import Fetched, fetch_files, wanted_files
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import Taken, still_there, take_snapshot
from cbtfs.source.vsphere.snapshots.snapshot_disk import (
    SnapshotDisk,
    SnapshotLocation,
    SnapshotTooOld,
    Watch,
    transport_disks,
)
from cbtfs.store.identity import new_id
from cbtfs.store.runs import RunFolder

SNAPSHOT_PREFIX: Final = "cbtfs-"
_PREFIX_ID: Final = 8


@dataclass(frozen=True, slots=True)
class PreparedVm:
    """A VM that can be captured, before its snapshot is taken."""

    vm: ListedVm
    ready: Ready
    run: str
    """ID of the run."""
    snapshot_name: str
    interrupted: InterruptedRun | None
    """The run that is resumed, from its snapshot."""
    datastores: Mapping[str, DatastoreFacts]
    """Datastores of the disks, by managed object ID."""
    transport: Transport
    """The transport that will probably be chosen."""


@dataclass(frozen=True, slots=True)
class VmSnapshot:
    """A VM with a snapshot, and the decisions on how to read its disks."""

    taken: Taken
    watch: Watch
    selection: DiskSelection
    facts: Mapping[int, TransportDisk]
    """Facts for the transport, by device key."""
    choice: Choice
    files: Fetched


@dataclass(frozen=True, slots=True)
class VmReading:
    """The disks of a VM in the repository, not committed."""

    point: TakenPoint
    disks: tuple[DiskMetadata, ...]
    left_out: tuple[LeftOut, ...]
    resumed: ResumedMetadata | None


def prepare(
    context: IngestContext, vm: ListedVm, ready: Ready, interrupted: InterruptedRun | None
) -> PreparedVm:
    """Select disks and transport; raise the errors that would otherwise occur with a snapshot."""
    run = new_id()
    if interrupted is None:
        name = f"{SNAPSHOT_PREFIX}{context.repository.settings.id[:_PREFIX_ID]}-{run}"
        others = ready.machine.snapshots
    else:
        name = interrupted.taken.entry.name
        ready = replace(ready, untracked=interrupted.progress.snapshot.untracked_reason)
        others = interrupted.taken.others
    disks = _expected_disks(context, ready, interrupted)
    stores = {disk.datastore for disk in disks if disk.datastore is not None}
    datastores = load_datastores(context.session, stores)
    host = ready.machine.host_id
    location = SnapshotLocation(vm.id, "", _datacenter(context, vm), not others, host)
    whole = _read_whole(context, vm, ready, disks, has_others=bool(others))
    facts = transport_disks(location, disks, datastores, whole)
    transport = choose(context.transports, list(facts.values())).transport
    return PreparedVm(vm, ready, run, name, interrupted, datastores, transport)


def snapshot(context: IngestContext, prepared: PreparedVm) -> VmSnapshot:
    """Take the snapshot, or use that of the interrupted run; choose the transport."""
    vm, ready, interrupted = prepared.vm, prepared.ready, prepared.interrupted
    datacenter = _datacenter(context, vm)
    # Before the snapshot, which changes the files to refer to delta disks, and must be short.
    expected = _expected_disks(context, ready, interrupted)
    wanted = wanted_files(vm.name, ready.machine, expected)
    files = fetch_files(context.session.web(), datacenter, wanted)
    watch = Watch(context.stop, context.options.max_snapshot_age)
    if interrupted is not None:
        watch.start(interrupted.age)
        taken = interrupted.taken
    else:
        watch.start()
        taken = take_snapshot(
            context.session,
            vm.object,
            prepared.snapshot_name,
            quiesce=context.options.quiesce,
            is_stopped=context.stop.is_set,
        )
    selection = select_disks(context.options, taken.disks)
    host = ready.machine.host_id
    location = SnapshotLocation(vm.id, taken.entry.id, datacenter, not taken.others, host)
    whole = _read_whole(context, vm, ready, selection.disks, has_others=bool(taken.others))
    facts = transport_disks(location, selection.disks, prepared.datastores, whole)
    is_running = not ready.machine.is_off
    choice = choose(context.transports, list(facts.values()), is_probing=is_running)
    return VmSnapshot(taken, watch, selection, facts, choice, files)


def read(
    context: IngestContext, prepared: PreparedVm, snap: VmSnapshot, opened: ExitStack
) -> VmReading:
    """Read all disks into the repository; *opened* closes them, after the commit."""
    disks, taken = snap.selection.disks, snap.taken
    changes = Changes(context.repository, context.session, prepared.vm, prepared.ready, taken)
    checkpoints = _checkpoints(context, prepared, snap)
    sources = {disk.key: _source(context, prepared, snap, changes, disk) for disk in disks}
    inputs = []
    for disk in disks:
        opened.callback(sources[disk.key].close)
        inputs.append(
            DiskInput(
                disk.label,
                sources[disk.key],
                disk.identity,
                change_id=None if prepared.ready.untracked else disk.change_id,
                lists_discards=disk.thin is False,
                checkpoints=checkpoints.of_disk(disk.identity, disk.label),
                ask_allocation=_ask_allocation(
                    context, prepared, snap, changes, disk, sources[disk.key]
                ),
            )
        )
    inputs += inputs_of(taken.config, snap.files.files, [disk.label for disk in disks])
    point = take_point(
        context.repository,
        context.objects,
        context.input_of(prepared.vm),
        inputs,
        PointOptions(
            moment=taken.entry.created.astimezone(UTC).replace(microsecond=0),
            want=context.options.want,
            audit=context.options.audit,
            on_disk=context.on_disk,
            leave_out=lambda _, error: _may_leave_out(context, error),
            run=prepared.run,
            proving=context.options.proving,
        ),
    )
    interrupted = prepared.interrupted
    return VmReading(
        point,
        tuple(DiskMetadata(disk, sources[disk.key].transport_mode) for disk in disks),
        (*snap.selection.left_out, *_omitted(point, disks)),
        None
        if interrupted is None
        else ResumedMetadata(interrupted.progress.run, checkpoints.not_read_bytes),
    )


def commit(
    context: IngestContext, prepared: PreparedVm, snap: VmSnapshot, reading: VmReading
) -> Manifest:
    """Commit the point, with the VM metadata; return its manifest."""
    metadata = VmMetadata(
        vm=prepared.vm,
        ready=prepared.ready,
        taken=snap.taken,
        datastores=list(prepared.datastores.values()),
        transport=TransportMetadata(snap.choice.transport.name, snap.choice.refusals),
        disks=reading.disks,
        left_out=reading.left_out,
        resumed=reading.resumed,
    )
    document = metadata.document(context.session)
    return commit_point(context.repository, context.objects, reading.point, document)


def _expected_disks(
    context: IngestContext, ready: Ready, interrupted: InterruptedRun | None
) -> tuple[DiskFacts, ...]:
    """Return the disks to capture, as they are known before the snapshot is taken."""
    disks = ready.machine.disks if interrupted is None else interrupted.taken.disks
    return select_disks(context.options, disks).disks


def _read_whole(
    context: IngestContext,
    vm: ListedVm,
    ready: Ready,
    disks: Sequence[DiskFacts],
    *,
    has_others: bool,
) -> frozenset[str]:
    """Return the identities of the disks that are read completely, whatever vSphere answers.

    *has_others* states whether the VM has foreign snapshots: then no change list is trusted.
    """
    identities = frozenset(disk.identity for disk in disks)
    if context.options.want == "full" or ready.untracked is not None or has_others:
        return identities
    bases = bases_of(context.repository, context.input_of(vm), identities)
    return frozenset(
        disk.identity
        for disk in disks
        if bases[disk.identity] is None or untracked_disk(ready.machine, disk) is not None
    )


def _datacenter(context: IngestContext, vm: ListedVm) -> str:
    """Return the datacenter in the form that the server's /folder URLs need."""
    return vm.datacenter if context.session.is_vcenter else "ha-datacenter"


def _checkpoints(context: IngestContext, prepared: PreparedVm, snap: VmSnapshot) -> Checkpoints:
    """Return the checkpoints of the run, with the progress of the interrupted run."""
    disks, repository = snap.selection.disks, context.repository
    vm = context.input_of(prepared.vm)
    bases = bases_of(repository, vm, [disk.identity for disk in disks])
    held = held_snapshot(snap.taken, disks, bases, context.options, prepared.ready.untracked)
    interrupted = prepared.interrupted
    progress = {} if interrupted is None else interrupted.progress.disks
    runs = RunFolder(repository.path)
    return Checkpoints(
        repository,
        context.objects,
        lambda data: runs.save_progress(prepared.run, data),
        RunProgress(prepared.run, held, progress),
        context.checkpoint_seconds,
    )


def _source(
    context: IngestContext,
    prepared: PreparedVm,
    snap: VmSnapshot,
    changes: Changes,
    disk: DiskFacts,
) -> SnapshotDisk:
    def check() -> None:
        # Not cached: a disk is also confirmed in the middle of a capture, after an audit.
        reason = still_there(context.session, prepared.vm.object, snap.taken)
        if reason is not None:
            raise SourceUnavailable(f"{reason}: run again")

    transport, facts = snap.choice.transport, snap.facts[disk.key]
    return SnapshotDisk(
        disk.size, lambda: transport.open(facts), changes.of(disk), check, snap.watch
    )


def _ask_allocation(
    context: IngestContext,
    prepared: PreparedVm,
    snap: VmSnapshot,
    changes: Changes,
    disk: DiskFacts,
    source: SnapshotDisk,
) -> AskAllocation:
    """Return the question that a full asks about the allocation of *disk*."""
    untracked, taken = prepared.ready.untracked, snap.taken
    facts = SnapshotFacts(
        prepared.vm.object,
        taken.entry.object,
        [entry.name for entry in taken.others],
        None if untracked is None else untracked.text,
    )

    def ask() -> Claim:
        earlier = changes.others_since_tracking(context.input_of(prepared.vm), disk)
        return ask_allocation(
            context.session, context.options.allocation, facts, disk, source.allocated, earlier
        )

    return ask


def _may_leave_out(context: IngestContext, error: SourceUnavailable) -> bool:
    return context.options.allow_partial and not isinstance(error, (Stopped, SnapshotTooOld))


def _omitted(point: TakenPoint, disks: Sequence[DiskFacts]) -> list[LeftOut]:
    """Return the disks that could not be read."""
    keys = {disk.identity: disk.key for disk in disks}
    return [
        LeftOut(omitted.disk.label, keys[omitted.disk.identity], str(omitted.error), True)
        for omitted in point.omitted
    ]
