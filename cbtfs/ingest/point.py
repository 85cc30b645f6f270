"""Take one restore point: all the disks of a VM, from their sources into the repository."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from cbtfs import __version__
from cbtfs.core.audit import Sampling
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import MAX_DISKS, DiskRecord, IngestKind, Manifest, TimeSource, Vm
from cbtfs.core.moment import format_moment, point_name
from cbtfs.core.names import encode_name, printable, unique_name
from cbtfs.errors import (
    ChangeTrackingUnusable,
    SourceMismatch,
    SourceUnavailable,
    UsageError,
)
from cbtfs.ingest.baseline import find_baseline, find_forgotten
from cbtfs.ingest.disk import Announce, DiskInput, PointOptions, silent, take_disk
from cbtfs.ingest.plan import Want
from cbtfs.listing import holder_of, vm_names
from cbtfs.store.identity import new_id, new_point_id, new_vm_id
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

__all__ = ["Announce", "DiskInput", "LeaveOut", "VmInput", "silent", "take_point"]

_UNSEEN_ORDERS: Final = 1 << 20
"""Order numbers that are left out where a manifest cannot be read: its own may be among them."""


@dataclass(frozen=True, slots=True)
class VmInput:
    """The VM that is captured."""

    name: str
    vcenter: str | None = None
    instance_uuid: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


LeaveOut = Callable[[DiskInput, SourceUnavailable], bool]
"""Told of a disk that cannot be read; whether the point is to be taken without it."""

_committing = threading.Lock()
"""Names and order numbers are chosen, and what has them is committed, by one thread at a time."""


def all_or_nothing(disk: DiskInput, error: SourceUnavailable) -> bool:
    """Leave no disk out."""
    return False


def take_point(
    repository: Repository,
    objects: ObjectWriter,
    vm_input: VmInput,
    disks: Sequence[DiskInput],
    *,
    moment: datetime,
    want: Want = "auto",
    announce: Announce = silent,
    leave_out: LeaveOut = all_or_nothing,
    run: str | None = None,
    audit: Sampling | None = None,
    time_source: TimeSource = "clock",
) -> Manifest:
    """Capture *disks* as they are now and commit them as one restore point.

    Small files of the VM may stand among them: they are read whole, whatever *want* says, and do
    not make a point a full.

    Nothing is committed unless all of it is: SourceUnavailable, SourceMismatch or
    ChangeTrackingUnusable leaves the repository's points as they were. Only a disk that
    *leave_out* says so of is left out, as long as there is another one. *run* is what the point's
    manifest calls the run. *audit* is how a list of changes is put to the test; where it turns out
    to lack some, SourceMismatch if no full may be taken, and the points that may be wrong for it
    stay marked whatever becomes of this one. *time_source* says whether a clock told *moment* or
    the user did. Several threads may take points, of a VM one at a time.
    """
    _look_at(vm_input, disks)
    run = run or new_id()
    vm, is_new = _find_vm(repository, vm_input)
    options = PointOptions(vm, moment, run, want, audit, announce)
    records: list[DiskRecord] = []
    taken: list[DiskInput] = []
    last_hope = [disk for disk in disks if disk.kind == "disk"][-1]
    for disk in disks:
        base = None if is_new else find_baseline(repository, vm.id, disk.identity)
        try:
            with _named(disk):
                records.append(take_disk(repository, objects, disk, base, options))
        except SourceUnavailable as exc:
            is_last_hope = disk is last_hope and not any(t.kind == "disk" for t in taken)
            if is_last_hope or not leave_out(disk, exc):
                raise
        else:
            taken.append(disk)
    for disk in taken:
        with _named(disk):
            disk.source.confirm()
    with _committing:
        if is_new:
            vm, _ = _find_vm(repository, vm_input)
        manifest = _manifest(repository, vm, records, moment, vm_input.metadata, run, time_source)
        with repository.catalog.view() as view:
            before = holder_of(view, vm.name)
        repository.commit(objects, manifest)
    if before is not None and before.id != vm.id:
        _warn_of_new_holder(repository, vm, before)
    return manifest


def _warn_of_new_holder(repository: Repository, vm: Vm, before: Vm) -> None:
    """Say that the name of *vm* means another VM than *before* from now on."""
    with repository.catalog.view() as view:
        label = vm_names(view).labels[before.id]
    log.warning(
        "VM name %r changed hands: it meant VM %s and now means VM %s; the points of the former "
        "are those of %s from now on",
        vm.name,
        before.id,
        vm.id,
        label,
    )


@contextmanager
def _named(disk: DiskInput) -> Iterator[None]:
    """Let what went wrong with a source say with which."""
    try:
        yield
    except (SourceUnavailable, SourceMismatch, ChangeTrackingUnusable) as exc:
        raise type(exc)(f"disk {printable(disk.label)}: {exc}") from exc


def bases_of(
    repository: Repository, vm_input: VmInput, identities: Iterable[str]
) -> dict[str, PointId | None]:
    """By identity, the newest point of each disk: what it will be compared with."""
    vm, is_new = _find_vm(repository, vm_input)
    found: dict[str, PointId | None] = {}
    for identity in identities:
        base = None if is_new else find_baseline(repository, vm.id, identity)
        found[identity] = None if base is None else base.point.manifest.point
    return found


def refuse_many(vm: str, count: int) -> None:
    """UsageError if *count* disks and small files of *vm* are too many for a point."""
    if count > MAX_DISKS:
        raise UsageError(
            f"VM {printable(vm)} has {count} disks and small files, a restore point has at most "
            f"{MAX_DISKS}: capture them as several VMs"
        )


def _look_at(vm: VmInput, disks: Sequence[DiskInput]) -> None:
    if not vm.name:
        raise UsageError("a VM needs a name")
    if not any(disk.kind == "disk" for disk in disks):
        raise UsageError("a restore point needs a disk")
    refuse_many(vm.name, len(disks))
    labels = [disk.label for disk in disks]
    identities = [disk.identity for disk in disks]
    if not all(labels) or len(set(labels)) < len(labels) or len(set(identities)) < len(labels):
        raise UsageError("each disk of a VM needs a name of its own")


def _find_vm(repository: Repository, wanted: VmInput) -> tuple[Vm, bool]:
    """The VM whose history this is, and whether it starts here."""
    with repository.catalog.view() as view:
        known = view.vms()
    for vm in known.values():
        same_place = vm.vcenter == wanted.vcenter and vm.instance_uuid == wanted.instance_uuid
        if same_place and (vm.instance_uuid is not None or vm.name == wanted.name):
            return Vm(vm.id, wanted.name, vm.directory, vm.vcenter, vm.instance_uuid), False
    new = new_vm_id()
    taken = {vm.directory for vm in known.values()}
    directory = unique_name(encode_name(wanted.name), taken, new)
    return Vm(new, wanted.name, directory, wanted.vcenter, wanted.instance_uuid), True


def _manifest(
    repository: Repository,
    vm: Vm,
    records: Sequence[DiskRecord],
    moment: datetime,
    metadata: Mapping[str, Any],
    run: str,
    time_source: TimeSource,
) -> Manifest:
    virtual = [record for record in records if record.kind == "disk"]
    kind: IngestKind = "full" if any(r.ingest == "full" for r in virtual) else "incremental"
    with repository.catalog.view() as view:
        names = {name for name, _ in view.names_of(vm.id)}
        newest = {
            each: order
            for each in view.vms()
            for order, _ in islice(view.points_of(each, newest_first=True), 1)
        }
        unproven = view.unproven_order(vm.id)
    forgotten = find_forgotten(repository, vm.id)
    dead = [manifest.order for manifest in forgotten.manifests]
    is_all_seen = forgotten.is_complete and not repository.findings.unreadable
    is_all_seen = is_all_seen and unproven < newest.get(vm.id, 0)
    return Manifest(
        point=new_point_id(),
        vm=vm,
        # Above those of all VMs: so it tells, too, which VM was captured last under a name.
        order=max([*newest.values(), *dead], default=0) + (1 if is_all_seen else _UNSEEN_ORDERS),
        time=format_moment(moment),
        name=point_name(moment, names),
        committed=format_moment(datetime.now(UTC)),
        run=run,
        program=f"cbtfs {__version__}",
        kind=kind,
        reason=next(record.reason for record in virtual if record.ingest == kind),
        disks=tuple(records),
        metadata=metadata,
        time_source=time_source,
    )
