"""Find the base of a disk, and whether change lists may start there.

The base is the disk's newest point, or the point that the user names.
"""

from dataclasses import dataclass, replace
from itertools import islice

from cbtfs.core.ids import DiskId, PointId, VmId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.listing import Point, decode
from cbtfs.source.base import Since
from cbtfs.store.catalog.view import View
from cbtfs.store.identity import new_disk_id
from cbtfs.store.points import Forgotten
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class NamedBase:
    """The point that change lists start from, as the user named it."""

    name: str
    point: PointId | None
    """None: the name means no point, or several."""
    error: str = ""
    """Why it means no point."""
    is_content: bool = False
    """The change lists are relative to the content of the point as it is stored: those of an
    overlay. So the point may be of another VM, and it does not matter whether it is suspect, or
    whether the lists of its source are distrusted."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One disk at the point that an ingest compares it with."""

    point: Point
    disk: DiskRecord
    is_last_committed: bool
    """False if a later point of this disk may have been committed, even if it was forgotten. True
    for a point that the user named: then change lists start there."""
    last: str = "was forgotten"
    """State of such a later point, for a message."""
    is_missing: bool = False
    """The point has no manifest: its disks must be read completely."""
    is_named: bool = False
    """The user named the point: other points of the disk do not matter."""
    refusal: Reason | None = None
    """Why the point that the user named cannot be the base, and the disk is read completely."""
    is_content: bool = False
    """As in NamedBase."""
    history: DiskId | None = None
    """The disk whose history the new point continues, if the base is a point of another VM."""

    @property
    def disk_id(self) -> DiskId:
        """Id of the disk in the new point."""
        return self.history or self.disk.id

    @property
    def since(self) -> Since:
        return Since(
            self.point.manifest.point,
            self.disk.change_id,
            self.disk.size,
            self.is_last_committed,
            self.last,
        )

    @property
    def suspect(self) -> str | None:
        """Reason why an incremental on this base is suspect; None if it is not."""
        reason = self.disk.suspect or self.point.state.suspects(self.disk.id)
        return reason and f"based on {self.point.manifest.point}, which is suspect: {reason}"


def disk_of(manifest: Manifest, identity: str) -> DiskRecord | None:
    """Return the record of the disk with that identity; None if the point lacks it."""
    return next((disk for disk in manifest.disks if disk.identity == identity), None)


def find_baseline(repository: Repository, vm: VmId, identity: str) -> Baseline | None:
    """Return the newest point with the disk, retained or missing; None for a new disk.

    The catalog must have been caught up with points/: then it lists the retained points and knows
    which points are missing.
    """
    with repository.catalog.view() as view:
        newest = _newest_with(view, vm, identity)
        missing, unproven = view.missing, view.unproven_order(vm)
        is_any_missing = bool(missing) and any(p in missing for _, p in view.points_of(vm))
    if newest is None:
        return None
    point, disk = newest
    order = point.manifest.order
    forgotten = find_forgotten(repository, vm)
    is_last = not any(m.order > order and disk_of(m, identity) for m in forgotten.manifests)
    is_last = is_last and forgotten.is_complete
    last = "was forgotten"
    if is_any_missing:
        is_last, last = False, "may be missing"
    elif order <= unproven:
        is_last, last = False, "the catalog, which was rebuilt or behind, may never have known"
    return Baseline(point, disk, is_last, last, point.manifest.point in missing)


def _newest_with(view: View, vm: VmId, identity: str) -> tuple[Point, DiskRecord] | None:
    for _, number in view.points_of(vm, newest_first=True):
        record = view.point(number)
        if record is not None:
            point = decode(view, number, record)
            disk = disk_of(point.manifest, identity)
            if disk is not None:
                return point, disk
    return None


def named_baseline(
    repository: Repository, vm: VmId, identity: str, named: NamedBase
) -> Baseline | None:
    """Return the disk at the point that the user named as the base.

    If that point cannot be the base, return the newest point with the disk, and the refusal; None
    for a new disk.
    """
    loaded = _load_named(repository, vm, identity, named)
    if isinstance(loaded, Baseline):
        if loaded.point.manifest.vm.id == vm:
            return loaded
        earlier = find_baseline(repository, vm, identity)
        return replace(loaded, history=new_disk_id() if earlier is None else earlier.disk.id)
    newest = find_baseline(repository, vm, identity)
    return None if newest is None else replace(newest, refusal=loaded)


def _load_named(
    repository: Repository, vm: VmId, identity: str, named: NamedBase
) -> Baseline | Reason:
    """Return the base, or the reason why it cannot be one."""
    name = printable(named.name)
    with repository.catalog.view() as view:
        is_missing = named.point in view.missing
        record = None if named.point is None else view.point(named.point)
        point = None if record is None or named.point is None else decode(view, named.point, record)
    if point is None:
        return Reason(FullReason.BASE_MISSING, named.error)
    if is_missing:
        return Reason(FullReason.BASE_MISSING, f"the manifest of {name} is missing")
    try:
        repository.points.read_manifest(point.manifest.point)
    except (DataCorrupt, PointNotFound) as exc:
        return Reason(FullReason.BASE_DAMAGED, f"{name} is damaged: {exc}")
    if point.manifest.vm.id != vm and not named.is_content:
        text = f"{name} is a point of another VM, {printable(point.manifest.vm.name)}"
        return Reason(FullReason.BASE_UNSUITABLE, text)
    disk = disk_of(point.manifest, identity)
    if disk is None:
        return Reason(FullReason.BASE_UNSUITABLE, f"{name} has no such disk")
    suspect = disk.suspect or point.state.suspects(disk.id)
    if suspect and not named.is_content:
        return Reason(FullReason.BASE_SUSPECT, f"{name} is suspect: {suspect}")
    return Baseline(point, disk, is_last_committed=True, is_named=True, is_content=named.is_content)


def newest_order(repository: Repository, vm: VmId) -> int:
    """Return the largest order number of the points of *vm*, retained or forgotten; -1: none."""
    with repository.catalog.view() as view:
        orders = [order for order, _ in islice(view.points_of(vm, newest_first=True), 1)]
    orders += [manifest.order for manifest in find_forgotten(repository, vm).manifests]
    return max(orders, default=-1)


def find_forgotten(repository: Repository, vm: VmId) -> Forgotten:
    """Return the manifests of forgotten points of *vm* that still exist."""
    forgotten = repository.forgotten()
    of_vm = tuple(manifest for manifest in forgotten.manifests if manifest.vm.id == vm)
    return Forgotten(of_vm, forgotten.is_complete)
