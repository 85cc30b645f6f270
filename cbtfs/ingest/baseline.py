"""What an ingest compares with: the disk's newest retained point, and how far that is trusted."""

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
    """One disk at the newest point that shows it."""

    point: Point
    disk: DiskRecord
    is_last_committed: bool
    """False if a later point of this disk may have been committed, whatever became of it."""
    last: str = "was forgotten"
    """What may have become of such a later point, for a message."""
    is_missing: bool = False
    """The point has no manifest: its disks are read whole."""

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
        """Why what is based on it is suspect too."""
        found = self.disk.suspect or self.point.state.suspects(self.disk.id)
        return found and f"based on {self.point.manifest.point}, which is suspect: {found}"


def disk_of(manifest: Manifest, identity: str) -> DiskRecord | None:
    """The disk that a source tells by *identity*, as a point has it."""
    return next((disk for disk in manifest.disks if disk.identity == identity), None)


def find_baseline(repository: Repository, vm: VmId, identity: str) -> Baseline | None:
    """The newest point that has the disk, retained or missing; None for a disk that is new.

    The catalog has just been caught up with points/, so it lists what is retained, and knows
    which points are missing.
    """
    with repository.catalog.view() as view:
        found = _newest_with(view, vm, identity)
        missing, unproven = view.missing, view.unproven_order(vm)
        is_any_missing = bool(missing) and any(p in missing for _, p in view.points_of(vm))
    if found is None:
        return None
    point, disk = found
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
    """What is known of points of *vm* that were forgotten and are still there to tell."""
    found = repository.forgotten()
    mine = tuple(manifest for manifest in found.manifests if manifest.vm.id == vm)
    return Forgotten(mine, found.is_complete)
