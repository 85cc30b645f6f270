"""Decide whether a disk's change list can be trusted since the last point.

Sources: VDDK Programming Guide, "Changed Block Tracking"; VMware KB 1020128, 2090639 (grown disks),
KB 432633 (power loss). vSphere 6.5 and later report no fault for a corrupt change map, so this
module checks all conditions that are visible from outside.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cbtfs.core.reasons import FullReason, Reason
from cbtfs.source.base import Since
from cbtfs.source.vsphere.inventory.disks import DiskFacts


def distrust(disk: DiskFacts, since: Since, then: Mapping[str, Any] | None) -> Reason | None:
    """Return why changes of *disk* since that point cannot be trusted; None if they can.

    *then* is the disk's metadata in that point's manifest.
    """
    if since.change_id is None:
        return Reason(FullReason.BASE_UNKNOWN, "the last point has no change ID of this disk")
    if disk.change_id is None:
        return Reason(
            FullReason.NOT_TRACKED,
            "the snapshot has no change ID of this disk: it is not tracked",
        )
    if then is None:
        return Reason(FullReason.BASE_UNKNOWN, "the last point does not record the disk's path")
    if then.get("root") != disk.root:
        return Reason(
            FullReason.MOVED,
            f"the disk was moved or replaced: it was {then.get('root')} and is {disk.root} now",
        )
    if since.size != disk.size:
        return Reason(
            FullReason.RESIZED,
            f"the disk had {since.size} bytes and has {disk.size} now (VMware KB 2090639)",
        )
    return _new_epoch(since.change_id, disk.change_id)


def epoch_of(change_id: str | None) -> str:
    """Return the part of a change ID that is new when tracking begins; empty without one."""
    return (change_id or "").rpartition("/")[0]


def _new_epoch(old: str, new: str) -> Reason | None:
    """Compare change IDs, `<uuid>/<number>`: another UUID means that tracking was restarted."""
    old_epoch, _, old_number = old.rpartition("/")
    new_epoch, _, new_number = new.rpartition("/")
    if not old_epoch or old_epoch != new_epoch:
        return Reason(
            FullReason.TRACKING_RESET,
            f"change tracking was restarted: the change ID was {old} and is {new} now",
        )
    numbers = _numbers(old_number, new_number)
    if numbers is None or numbers[1] <= numbers[0]:
        return Reason(
            FullReason.TRACKING_RESET,
            f"the change ID did not increase: it was {old} and is {new} now",
        )
    return None


def _numbers(*texts: str) -> list[int] | None:
    """Parse a number: decimal in all observed IDs; hexadecimal is accepted."""
    for base in (10, 16):
        try:
            return [int(text, base) for text in texts]
        except ValueError:
            continue
    return None


def foreign_snapshots(then: Sequence[str], now: Sequence[str]) -> Reason | None:
    """Return why foreign snapshots invalidate a change list (VMware KB 1020128)."""
    if now:
        return Reason(
            FullReason.FOREIGN_SNAPSHOT,
            f"the VM has a snapshot that does not belong to this repository: {now[0]}",
        )
    if then:
        return Reason(
            FullReason.FOREIGN_SNAPSHOT,
            "at the last point the VM had a snapshot that does not belong to this repository: "
            f"{then[0]}",
        )
    return None
