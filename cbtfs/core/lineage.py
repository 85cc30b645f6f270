"""The full that each point of a disk depends on, through the change lists of its parents."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cbtfs.core.ids import DiskId, PointId
from cbtfs.core.manifest import DiskRecord, Manifest


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chains of parents of one disk, over retained and forgotten points."""

    orders: Mapping[PointId, int]
    """Order number of each point that has the disk."""
    records: Mapping[PointId, DiskRecord]
    fulls: Mapping[PointId, PointId | None]
    """The full that the chain of a point leads to; the first unknown parent if its manifest is
    gone; None if that parent is not recorded."""

    def may_share_lists(self, point: PointId, base: PointId) -> bool:
        """Whether *point* may depend on a change list that *base* depends on, or on one since it.

        A full depends on no list. Where a manifest is gone, the order of capture decides: the
        answer is True unless a full was captured between the two.
        """
        if point not in self.records or self.records[point].ingest == "full":
            return False
        own, full = self.fulls[point], self.fulls.get(base, base)
        if own == full:
            return True
        full_order = None if full is None else self.orders.get(full)
        own_order = None if own is None else self.orders.get(own)
        if full_order is not None and own_order is not None:
            return False
        if full_order is not None:  # the unknown chain may lead to this full
            return self.orders[point] > full_order
        if own_order is not None:
            return self.orders.get(base, own_order) >= own_order
        first, last = sorted((self.orders[point], self.orders.get(base, self.orders[point])))
        return not any(
            first < self.orders[other] <= last and record.ingest == "full"
            for other, record in self.records.items()
        )


def lineage(manifests: Iterable[Manifest], disk: DiskId) -> Lineage:
    """Return the chains of parents of the disk with that id."""
    orders: dict[PointId, int] = {}
    records: dict[PointId, DiskRecord] = {}
    fulls: dict[PointId, PointId | None] = {}
    for manifest in sorted(manifests, key=lambda manifest: manifest.order):
        record = next((record for record in manifest.disks if record.id == disk), None)
        if record is None:
            continue
        point, parent = manifest.point, record.parent
        orders[point], records[point] = manifest.order, record
        if record.ingest == "full":
            fulls[point] = point
        else:
            fulls[point] = None if parent is None else fulls.get(parent, parent)
    return Lineage(orders, records, fulls)
