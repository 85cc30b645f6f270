"""Mark the points of a disk that may be wrong because a change list lacked changes."""

from collections.abc import Iterator

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.ingest.baseline import Baseline, disk_of, find_forgotten
from cbtfs.listing import decode
from cbtfs.store.repository import Repository


def suspect_since_full(
    repository: Repository, vm: VmId, base: Baseline, reason: str
) -> list[PointId]:
    """Mark the points of a disk that depend on the same full as *base* as suspect; return them.

    The full itself is not marked: it does not depend on a change list. The marks are in state
    files, so they survive a rebuild of the catalog.
    """
    points = _dependents(repository, vm, base)
    states = [repository.points.load_state(point)[0] for point in points]
    marked = [state.suspecting(base.disk.id, reason) for state in states]
    repository.put_states(new for new, old in zip(marked, states, strict=True) if new != old)
    return points


def _dependents(repository: Repository, vm: VmId, base: Baseline) -> list[PointId]:
    """Return the retained incrementals of a disk whose chain of parents leads to the same full.

    The points after the last full belong to them, unless the chain of *base* is known to lead to
    another one: a parent may be forgotten, and its manifest gone.
    """
    fulls = _fulls(repository, vm, base.disk)
    full = fulls.get(base.point.manifest.point)
    with repository.catalog.view() as view:
        retained = [point for _, point in view.points_of(vm, newest_first=True)]
    same = {point for point in retained if point in fulls and point != full == fulls[point]}
    if full not in fulls:
        same |= set(_since_full(repository, vm, base.disk))
    return [point for point in retained if point in same]


def _fulls(repository: Repository, vm: VmId, disk: DiskRecord) -> dict[PointId, PointId | None]:
    """Return the full that each point's chain of parents leads to, by point.

    It is the first unknown parent where a parent's manifest is gone. Forgotten points count.
    """
    manifests = list(find_forgotten(repository, vm).manifests)
    with repository.catalog.view() as view:
        for _, point in view.points_of(vm):
            record = view.point(point)
            if record is not None:
                manifests.append(decode(view, point, record).manifest)
    fulls: dict[PointId, PointId | None] = {}
    for manifest in sorted(manifests, key=lambda manifest: manifest.order):
        of_disk = disk_of(manifest, disk.identity)
        if of_disk is not None and of_disk.ingest == "full":
            fulls[manifest.point] = manifest.point
        elif of_disk is not None:
            parent = of_disk.parent
            fulls[manifest.point] = None if parent is None else fulls.get(parent, parent)
    return fulls


def _since_full(repository: Repository, vm: VmId, disk: DiskRecord) -> Iterator[PointId]:
    """Yield the retained points after the last full of the disk, even a forgotten full."""
    forgotten = find_forgotten(repository, vm).manifests
    first = max((m.order for m in forgotten if _is_full(m, disk)), default=-1)
    with repository.catalog.view() as view:
        for order, point in view.points_of(vm, newest_first=True):
            record = view.point(point)
            if record is None:
                continue
            manifest = decode(view, point, record).manifest
            if order < first or _is_full(manifest, disk):
                return
            if disk_of(manifest, disk.identity) is not None:
                yield point


def _is_full(manifest: Manifest, disk: DiskRecord) -> bool:
    record = disk_of(manifest, disk.identity)
    return record is not None and record.ingest == "full"
