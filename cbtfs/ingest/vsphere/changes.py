"""What changed on a VM's disks since an earlier point, where that can be believed."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import decode_manifest
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.source.base import ChangeTrackingInvalid, Since
from cbtfs.source.vsphere.cbt.changed_areas import changed_areas
from cbtfs.source.vsphere.cbt.readiness import Ready, untracked_disk
from cbtfs.source.vsphere.cbt.trust import distrust, foreign_snapshots
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.reverts import reverted_since
from cbtfs.source.vsphere.snapshots.snapshot import Taken
from cbtfs.source.vsphere.snapshots.snapshot_disk import never_changed
from cbtfs.store.repository import Repository


class Changes:
    """What changed on a VM's disks since an earlier point, where that can be believed."""

    def __init__(
        self, repository: Repository, session: Session, vm: ListedVm, ready: Ready, taken: Taken
    ) -> None:
        self._repository = repository
        self._session = session
        self._vm = vm
        self._ready = ready
        self._taken = taken
        self._known: dict[PointId, dict[str, Any]] = {}
        self._reverted: dict[PointId, Reason | None] = {}

    def of(self, disk: DiskFacts) -> Callable[[Since], Sequence[Extent]]:
        """For a source: raises ChangeTrackingInvalid with the reason that the point will tell."""
        if self._ready.untracked is not None:
            return never_changed(self._ready.untracked)
        reason = untracked_disk(self._ready.machine, disk)
        if reason is not None:
            return never_changed(reason)
        return lambda since: self._changed(disk, since)

    def _changed(self, disk: DiskFacts, since: Since) -> Sequence[Extent]:
        known = self._knowledge(since.point)
        then = next((d for d in known.get("disks", ()) if d["identity"] == disk.identity), None)
        others = known.get("snapshot", {}).get("others", ())
        reason = (
            distrust(disk, since, then)
            or foreign_snapshots(others, [each.name for each in self._taken.others])
            or self._revert(since.point, known)
        )
        if reason is not None:
            raise ChangeTrackingInvalid(reason.text, reason.code)
        assert since.change_id is not None
        return changed_areas(
            self._session,
            self._vm.object,
            self._taken.entry.object,
            disk.key,
            disk.size,
            since.change_id,
        )

    def _knowledge(self, point: PointId) -> dict[str, Any]:
        """The metadata of an earlier point; empty if it cannot be had."""
        if point not in self._known:
            try:
                manifest = decode_manifest(self._repository.points.load_manifest(point))
                self._known[point] = dict(manifest.metadata)
            except (PointNotFound, DataCorrupt):
                self._known[point] = {}
        return self._known[point]

    def _revert(self, point: PointId, known: dict[str, Any]) -> Reason | None:
        if point not in self._reverted:
            created = known.get("snapshot", {}).get("created")
            self._reverted[point] = (
                Reason(
                    FullReason.BASE_UNKNOWN,
                    "the last point does not tell when its snapshot was made",
                )
                if created is None
                else reverted_since(
                    self._session,
                    self._vm.object,
                    datetime.fromisoformat(created),
                    self._taken.entry.created,
                )
            )
        return self._reverted[point]
