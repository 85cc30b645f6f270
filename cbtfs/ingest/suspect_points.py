"""Mark the points of a disk that may be wrong because a change list lacked changes."""

from cbtfs.core.ids import PointId, VmId
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
    with repository.catalog.view() as view:
        retained = [point for _, point in view.points_of(vm, newest_first=True)]
    of_base = base.point.manifest.point
    points = [point for point in retained if chains.may_share_lists(point, of_base)]
    states = [repository.points.load_state(point)[0] for point in points]
    marked = [state.suspecting(base.disk.id, reason) for state in states]
    repository.put_states(new for new, old in zip(marked, states, strict=True) if new != old)
    return points
