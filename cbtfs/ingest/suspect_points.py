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
    """Mark the points of a disk since its last full as suspect; return them.

    The full itself is not marked: it does not depend on a change list. The marks are in state
    files, so they survive a rebuild of the catalog.
    """
    points = list(_since_full(repository, vm, base.disk))
    states = [repository.points.load_state(point)[0] for point in points]
    marked = [state.suspecting(base.disk.id, reason) for state in states]
    repository.put_states(new for new, old in zip(marked, states, strict=True) if new != old)
    return points


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
