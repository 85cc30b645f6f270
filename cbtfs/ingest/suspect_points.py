"""Mark the points of a disk that may be wrong because blocks of it were missed."""

from collections.abc import Sequence

from cbtfs.core.ids import DiskId, PointId, VmId
from cbtfs.core.lineage import lineage
from cbtfs.ingest.baseline import Baseline
from cbtfs.listing import manifests_of
from cbtfs.store.repository import Repository


def suspect_since_full(
    repository: Repository, vm: VmId, base: Baseline, reason: str
) -> list[PointId]:
    """Mark the points of a disk that may share a change list with *base* as suspect; return them.

    These are the incrementals whose chain of parents leads to the same full. The full itself is not
    marked: it does not depend on a change list. The marks are in state files, so they survive a
    rebuild of the catalog.
    """
    chains = lineage(manifests_of(repository, vm), base.disk.id)
    of_base = base.point.manifest.point
    points = [p for p in _retained(repository, vm) if chains.may_share_lists(p, of_base)]
    _mark(repository, points, base.disk.id, reason)
    return points


def suspect_unproven(repository: Repository, vm: VmId, disk: DiskId, reason: str) -> list[PointId]:
    """Mark the points of a disk with areas that were never read as suspect; return them.

    They include fulls: what a full did not read is missing from it, too.
    """
    unproven = {
        manifest.point
        for manifest in manifests_of(repository, vm)
        for record in manifest.disks
        if record.id == disk and record.allocation is not None and record.allocation.unproven
    }
    points = [point for point in _retained(repository, vm) if point in unproven]
    _mark(repository, points, disk, reason)
    return points


def _retained(repository: Repository, vm: VmId) -> list[PointId]:
    with repository.catalog.view() as view:
        return [point for _, point in view.points_of(vm, newest_first=True)]


def _mark(repository: Repository, points: Sequence[PointId], disk: DiskId, reason: str) -> None:
    states = [repository.points.load_state(point)[0] for point in points]
    marked = [state.suspecting(disk, reason) for state in states]
    repository.put_states(new for new, old in zip(marked, states, strict=True) if new != old)
