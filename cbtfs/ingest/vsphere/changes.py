"""The change lists of a VM's disks since an earlier point, if they can be trusted."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import decode_manifest
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.ingest.inputs import VmInput
from cbtfs.ingest.point import points_of
from cbtfs.source.base import ChangeTrackingInvalid, Since
from cbtfs.source.vsphere.cbt.changed_areas import ChangeQuery, changed_areas
from cbtfs.source.vsphere.cbt.readiness import Ready, untracked_disk
from cbtfs.source.vsphere.cbt.trust import distrust, epoch_of, foreign_snapshots
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.reverts import reverted_since
from cbtfs.source.vsphere.snapshots.snapshot import Taken
from cbtfs.source.vsphere.snapshots.snapshot_disk import never_changed
from cbtfs.store.repository import Repository


class Changes:
    """Queries the changes of a VM's disks since an earlier point."""

    def __init__(
        self, repository: Repository, session: Session, vm: ListedVm, ready: Ready, taken: Taken
    ) -> None:
        self._repository = repository
        self._session = session
        self._vm = vm
        self._ready = ready
        self._taken = taken
        self._metadata: dict[PointId, dict[str, Any]] = {}
        self._reverted: dict[PointId, Reason | None] = {}

    def of(self, disk: DiskFacts) -> Callable[[Since], Sequence[Extent]]:
        """Return the change query of *disk* for its source.

        The query raises ChangeTrackingInvalid with the reason if the list cannot be trusted.
        """
        if self._ready.untracked is not None:
            return never_changed(self._ready.untracked)
        reason = untracked_disk(self._ready.machine, disk)
        if reason is not None:
            return never_changed(reason)
        return lambda since: self._changed(disk, since)

    def others_since_tracking(self, vm: VmInput, disk: DiskFacts) -> Sequence[str]:
        """Return the names of foreign snapshots that may be older than the tracking of *disk*.

        The VM had them at a point of the present epoch of change tracking, or at the last point.
        """
        epoch, last = epoch_of(disk.change_id), None
        names = list[str]()
        for manifest in sorted(points_of(self._repository, vm), key=lambda point: point.order):
            record = next((r for r in manifest.disks if r.identity == disk.identity), None)
            if record is None:
                continue
            last = manifest.metadata.get("snapshot", {}).get("others", ())
            if epoch and epoch_of(record.change_id) == epoch:
                names += last
        return [*names, *(last or ())]

    def _changed(self, disk: DiskFacts, since: Since) -> Sequence[Extent]:
        metadata = self._load_metadata(since.point)
        then = next((d for d in metadata.get("disks", ()) if d["identity"] == disk.identity), None)
        others = metadata.get("snapshot", {}).get("others", ())
        reason = (
            distrust(disk, since, then)
            or foreign_snapshots(others, [entry.name for entry in self._taken.others])
            or self._revert(since.point, metadata)
        )
        if reason is not None:
            raise ChangeTrackingInvalid(reason.text, reason.code)
        assert since.change_id is not None
        query = ChangeQuery(self._vm.object, self._taken.entry.object, disk.key, since.change_id)
        return changed_areas(self._session, query, disk.size)

    def _load_metadata(self, point: PointId) -> dict[str, Any]:
        """Return the VM metadata of an earlier point; empty if the manifest is unreadable."""
        if point not in self._metadata:
            try:
                manifest = decode_manifest(self._repository.points.load_manifest(point))
                self._metadata[point] = dict(manifest.metadata)
            except (PointNotFound, DataCorrupt):
                self._metadata[point] = {}
        return self._metadata[point]

    def _revert(self, point: PointId, metadata: dict[str, Any]) -> Reason | None:
        if point not in self._reverted:
            created = metadata.get("snapshot", {}).get("created")
            self._reverted[point] = (
                Reason(
                    FullReason.BASE_UNKNOWN,
                    "the last point does not record when its snapshot was created",
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
