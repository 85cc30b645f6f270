"""Find the base of an ingest: the disk's newest point, and whether change lists may start there."""

from dataclasses import dataclass

from cbtfs.core.ids import VmId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.listing import Point, decode
from cbtfs.source.base import Since
from cbtfs.store.catalog.view import View
from cbtfs.store.points import Forgotten
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Baseline:
    """One disk at the newest point that contains it."""

    point: Point
    disk: DiskRecord
    is_last_committed: bool
    """False if a later point of this disk may have been committed, even if it was forgotten."""
    last: str = "was forgotten"
    """State of such a later point, for a message."""
    is_missing: bool = False
    """The point has no manifest: its disks must be read completely."""

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


def find_forgotten(repository: Repository, vm: VmId) -> Forgotten:
    """Return the manifests of forgotten points of *vm* that still exist."""
    forgotten = repository.forgotten()
    of_vm = tuple(manifest for manifest in forgotten.manifests if manifest.vm.id == vm)
    return Forgotten(of_vm, forgotten.is_complete)
