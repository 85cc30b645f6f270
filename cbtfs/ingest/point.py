"""Take a restore point: read all disks of a VM into the repository, then commit them together."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from cbtfs import __version__
from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import MAX_DISKS, DiskRecord, IngestKind, Manifest, Vm
from cbtfs.core.moment import format_moment, point_name
from cbtfs.core.names import encode_name, printable, unique_name
from cbtfs.errors import (
    ChangeTrackingUnusable,
    SourceMismatch,
    SourceUnavailable,
    UsageError,
)
from cbtfs.ingest.baseline import (
    Baseline,
    NamedBase,
    find_baseline,
    named_baseline,
    newest_order,
)
from cbtfs.ingest.disk import DiskContext, take_disk
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.listing import holder_of, manifests_of, vm_names
from cbtfs.store.identity import new_vm_id, vm_id_of
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

_ORDER_GAP: Final = 1 << 20
"""Order numbers to skip if a manifest is unreadable: its own number is unknown."""
_committing = threading.Lock()
"""Held from the choice of a name and an order number until their point is committed."""


@dataclass(frozen=True, slots=True)
class CapturedDisk:
    """A disk whose blocks are all in the repository."""

    disk: DiskInput
    record: DiskRecord


@dataclass(frozen=True, slots=True)
class OmittedDisk:
    """A disk that cannot be read and is left out of the point."""

    disk: DiskInput
    error: SourceUnavailable


@dataclass(frozen=True, slots=True)
class TakenPoint:
    """The disks of a point that is read but not committed: one result per disk, in their order."""

    vm: VmInput
    options: PointOptions
    results: tuple[CapturedDisk | OmittedDisk, ...]

    @property
    def captured(self) -> list[CapturedDisk]:
        return [result for result in self.results if isinstance(result, CapturedDisk)]

    @property
    def omitted(self) -> list[OmittedDisk]:
        return [result for result in self.results if isinstance(result, OmittedDisk)]


def ingest_point(
    repository: Repository,
    objects: ObjectWriter,
    vm: VmInput,
    disks: Sequence[DiskInput],
    options: PointOptions,
) -> Manifest:
    """Take a restore point without VM metadata and commit it. Errors: see take_point()."""
    return commit_point(repository, objects, take_point(repository, objects, vm, disks, options))


def take_point(
    repository: Repository,
    objects: ObjectWriter,
    vm: VmInput,
    disks: Sequence[DiskInput],
    options: PointOptions,
) -> TakenPoint:
    """Read *disks* into the repository. The point exists once commit_point() has returned.

    *disks* may include small files of the VM. They are read completely, whatever options.want is,
    and do not make the point a full. options.leave_out decides whether the point is taken without
    a disk that cannot be read; at least one disk must be readable. Several threads may take
    points, each of another VM.

    Raises:
        SourceUnavailable: a disk cannot be read, and may not be left out.
        SourceMismatch: a disk changed while it was read, or an audit found that a change list
            lacks changes and options.want forbids a full. The suspect points stay marked.
        ChangeTrackingUnusable: a full is needed and options.want forbids it.
    """
    _check_inputs(vm, disks)
    known, is_new = _find_vm(repository, vm)
    context = DiskContext(repository, objects, known, options)
    results: list[CapturedDisk | OmittedDisk] = []
    last = [disk for disk in disks if disk.kind == "disk"][-1]
    has_disk = False
    for disk in disks:
        base = None
        if not is_new or (options.base is not None and options.base.is_content):
            base = _base_of(repository, known, disk, options.base)
        try:
            with _naming(disk):
                results.append(CapturedDisk(disk, take_disk(context, disk, base)))
        except SourceUnavailable as exc:
            is_needed = disk is last and not has_disk
            if is_needed or not options.leave_out(disk, exc):
                raise
            results.append(OmittedDisk(disk, exc))
        else:
            has_disk = has_disk or disk.kind == "disk"
    taken = TakenPoint(vm, options, tuple(results))
    for captured in taken.captured:
        with _naming(captured.disk):
            captured.disk.source.confirm()
    return taken


def _base_of(
    repository: Repository, vm: Vm, disk: DiskInput, named: NamedBase | None
) -> Baseline | None:
    """Return the base of *disk*; small files are read completely, whatever the user names."""
    if named is None or disk.kind == "file":
        return find_baseline(repository, vm.id, disk.identity)
    return named_baseline(repository, vm.id, disk.identity, named)


def commit_point(
    repository: Repository,
    objects: ObjectWriter,
    taken: TakenPoint,
    metadata: Mapping[str, Any] | None = None,
) -> Manifest:
    """Commit a point, with *metadata* as the document about its VM; return its manifest."""
    with _committing:
        repository.follow()
        vm, _ = _find_vm(repository, taken.vm)
        manifest = _manifest(repository, vm, taken, metadata or {})
        with repository.catalog.view() as view:
            before = holder_of(view, vm.name)
        repository.commit(objects, manifest)
    if before is not None and before.id != vm.id:
        _warn_of_new_holder(repository, vm, before)
    return manifest


def _warn_of_new_holder(repository: Repository, vm: Vm, before: Vm) -> None:
    """Warn that the name of *vm* meant another VM, *before*, until now."""
    with repository.catalog.view() as view:
        label = vm_names(view).labels[before.id]
    log.warning(
        "VM name %r changed hands from VM %s to VM %s; the points of the former are now listed "
        "under %s",
        vm.name,
        before.id,
        vm.id,
        label,
    )


@contextmanager
def _naming(disk: DiskInput) -> Iterator[None]:
    """Add the label of *disk* to errors of its source."""
    try:
        yield
    except (SourceUnavailable, SourceMismatch, ChangeTrackingUnusable) as exc:
        raise type(exc)(f"disk {printable(disk.label)}: {exc}") from exc


def bases_of(
    repository: Repository, vm: VmInput, identities: Iterable[str]
) -> dict[str, PointId | None]:
    """Return the base of each disk by its identity: the newest point with that disk, or None."""
    known, is_new = _find_vm(repository, vm)
    bases: dict[str, PointId | None] = {}
    for identity in identities:
        base = None if is_new else find_baseline(repository, known.id, identity)
        bases[identity] = None if base is None else base.point.manifest.point
    return bases


def refuse_many(vm: str, count: int) -> None:
    """Raise UsageError if *count* disks and small files of *vm* are too many for a point."""
    if count > MAX_DISKS:
        raise UsageError(
            f"VM {printable(vm)} has {count} disks and small files, a restore point has at most "
            f"{MAX_DISKS}: capture them as several VMs"
        )


def points_of(repository: Repository, vm: VmInput) -> list[Manifest]:
    """Return the manifests of retained and forgotten points of *vm*."""
    known, is_new = _find_vm(repository, vm)
    return [] if is_new else manifests_of(repository, known.id)


def _check_inputs(vm: VmInput, disks: Sequence[DiskInput]) -> None:
    if not vm.name:
        raise UsageError("a VM needs a name")
    if not any(disk.kind == "disk" for disk in disks):
        raise UsageError("a restore point needs a disk")
    refuse_many(vm.name, len(disks))
    labels = [disk.label for disk in disks]
    identities = [disk.identity for disk in disks]
    if not all(labels) or len(set(labels)) < len(labels) or len(set(identities)) < len(labels):
        raise UsageError("each disk of a VM needs a unique name")


def _find_vm(repository: Repository, wanted: VmInput) -> tuple[Vm, bool]:
    """Return the VM in the repository that *wanted* is, or a new one; True if it is new."""
    with repository.catalog.view() as view:
        known = view.vms()
    same = [
        vm
        for vm in known.values()
        if vm.vcenter == wanted.vcenter
        and vm.instance_uuid == wanted.instance_uuid
        and (vm.instance_uuid is not None or vm.name == wanted.name)
    ]
    if same:
        # There are two if all points of a VM were forgotten, it was captured anew, and then an old
        # point was unforgotten.
        vm = max(same, key=lambda vm: (newest_order(repository, vm.id), vm.id))
        return Vm(vm.id, wanted.name, vm.directory, vm.vcenter, vm.instance_uuid), False
    new = _new_vm(repository, wanted, known)
    directories = {vm.directory for vm in known.values()}
    directory = unique_name(encode_name(wanted.name), directories, new)
    return Vm(new, wanted.name, directory, wanted.vcenter, wanted.instance_uuid), True


def _new_vm(repository: Repository, wanted: VmInput, known: Mapping[VmId, Vm]) -> VmId:
    """Return the id of a VM without points.

    With shared writers it follows from the identity of the VM, so that two programs that capture a
    new VM at once make one VM.
    """
    if repository.shared is None:
        return new_vm_id()
    name = "" if wanted.instance_uuid is not None else wanted.name
    identity = (wanted.vcenter or "", wanted.instance_uuid or "", name)
    vm = vm_id_of(repository.settings.id, identity)
    return new_vm_id() if vm in known else vm


def _manifest(
    repository: Repository, vm: Vm, taken: TakenPoint, metadata: Mapping[str, Any]
) -> Manifest:
    options = taken.options
    records = [captured.record for captured in taken.captured]
    disks = [record for record in records if record.kind == "disk"]
    kind: IngestKind = "full" if any(r.ingest == "full" for r in disks) else "incremental"
    with repository.catalog.view() as view:
        names = {name for name, _ in view.names_of(vm.id)}
        newest = {
            vm_id: order
            for vm_id in view.vms()
            for order, _ in islice(view.points_of(vm_id, newest_first=True), 1)
        }
        unproven = view.unproven_order(vm.id)
    forgotten = repository.forgotten()
    forgotten_orders = [manifest.order for manifest in forgotten.manifests]
    are_all_known = (
        forgotten.is_complete
        and not repository.findings.unreadable
        and unproven < newest.get(vm.id, 0)
    )
    return Manifest(
        point=repository.new_point_id(),
        vm=vm,
        # Above the orders of all VMs: the order also shows which VM last had a name.
        order=max([*newest.values(), *forgotten_orders], default=0)
        + (1 if are_all_known else _ORDER_GAP),
        time=format_moment(options.moment),
        name=point_name(options.moment, names),
        committed=format_moment(datetime.now(UTC)),
        run=options.run,
        program=f"cbtfs {__version__}",
        kind=kind,
        reason=next(record.reason for record in disks if record.ingest == kind),
        disks=tuple(records),
        metadata=metadata,
        time_source=options.time_source,
    )
