"""Mark the points of a disk that may be wrong because blocks of it were missed."""

from collections.abc import Iterator, Sequence

from cbtfs.core.ids import DiskId, PointId, VmId
from cbtfs.core.lineage import lineage
from cbtfs.core.manifest import Manifest
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
    manifests = manifests_of(repository, vm)
    chains = lineage(manifests, base.disk.id)
    of_base = base.point.manifest.point
    wrong = [m for m in manifests if chains.may_share_lists(m.point, of_base)]
    return _mark(repository, vm, wrong, base.disk.id, reason)


def suspect_unproven(repository: Repository, vm: VmId, disk: DiskId, reason: str) -> list[PointId]:
    """Mark the points of a disk with areas that were never read as suspect; return them.

    They include fulls: what a full did not read is missing from it, too.
    """
    unproven = [
        manifest
        for manifest in manifests_of(repository, vm)
        for record in manifest.disks
        if record.id == disk and record.allocation is not None and record.allocation.unproven
    ]
    return _mark(repository, vm, unproven, disk, reason)


def _retained(repository: Repository, vm: VmId) -> list[PointId]:
    with repository.catalog.view() as view:
        return [point for _, point in view.points_of(vm, newest_first=True)]


def _mark(
    repository: Repository, vm: VmId, wrong: Sequence[Manifest], disk: DiskId, reason: str
) -> list[PointId]:
    """Mark a disk of *wrong*, retained or forgotten points of *vm*; return the retained points.

    Commits of overlays of these points inherit their blocks, so they are marked, too.
    """
    points = {manifest.point for manifest in wrong}
    retained = [point for point in _retained(repository, vm) if point in points]
    derived = _commits_of_overlays(repository, wrong, disk)
    disks = [*((point, disk) for point in retained), *derived]
    states = {point: repository.points.load_state(point)[0] for point, _ in disks}
    marked = dict(states)
    for point, record in disks:
        why = reason if record == disk else f"based on a suspect point: {reason}"
        marked[point] = marked[point].suspecting(record, why)
    repository.put_states(new for point, new in marked.items() if new != states[point])
    return retained


def _commits_of_overlays(
    repository: Repository, wrong: Sequence[Manifest], disk: DiskId
) -> Iterator[tuple[PointId, DiskId]]:
    """Yield retained points of other disks whose chain of parents leads to *wrong*, with the disk.

    The point of a commit has the point of its overlay as its parent, and a disk of its own.
    """
    with repository.catalog.view() as view:
        vms = list(view.vms())
    known = [(vm, manifest) for vm in vms for manifest in manifests_of(repository, vm)]
    retained = {vm: {*_retained(repository, vm)} for vm in vms}
    reached = {(m.point, d.identity) for m in wrong for d in m.disks if d.id == disk}
    pending = True
    while pending:
        pending = False
        for vm, manifest in known:
            for record in manifest.disks:
                key = manifest.point, record.identity
                is_based = record.ingest != "full" and (record.parent, key[1]) in reached
                if record.id == disk or key in reached or not is_based:
                    continue
                reached.add(key)
                pending = True
                if manifest.point in retained[vm]:
                    yield manifest.point, record.id
