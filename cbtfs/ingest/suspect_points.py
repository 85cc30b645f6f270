"""Which points a source that does not tell all its changes puts in doubt, and saying so of them."""

from collections.abc import Iterator

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.ingest.baseline import Baseline, disk_of, find_forgotten
from cbtfs.listing import decode
from cbtfs.store.repository import Repository


def suspect_since_full(
    repository: Repository, vm: VmId, base: Baseline, reason: str
) -> list[PointId]:
    """Mark every point of the disk that its list of changes may have made wrong; those points.

    These are the base and what is before it, back to the last point for which the disk was read
    whole: that one is right whatever the list says. The marks are in state files: they last, and
    a catalog that is made anew has them.
    """
    found = list(_since_full(repository, vm, base.disk))
    states = [repository.points.load_state(point)[0] for point in found]
    marked = [state.suspecting(base.disk.id, reason) for state in states]
    repository.put_states(new for new, old in zip(marked, states, strict=True) if new != old)
    return found


def _since_full(repository: Repository, vm: VmId, disk: DiskRecord) -> Iterator[PointId]:
    """Points that are retained, newest first. A full that was forgotten ends them, too."""
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
    found = disk_of(manifest, disk.identity)
    return found is not None and found.ingest == "full"
