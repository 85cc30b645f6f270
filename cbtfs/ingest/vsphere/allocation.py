"""Ask the transport or the server which areas of a disk are allocated (docs/decisions/0029).

QueryChangedDiskAreas with the change ID `*` lists the areas in use. The answer comes from the
change map, so it is right only if tracking began while the VM had no snapshot (VMware KB 1020128).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cbtfs.core.extent import Extent, between, total
from cbtfs.ingest.allocation import Claim
from cbtfs.ingest.vsphere.options import AllocationMethod
from cbtfs.source.base import ChangeTrackingInvalid
from cbtfs.source.vsphere.cbt.changed_areas import ChangeQuery, changed_areas
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts

_EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """Facts about a snapshot that decide whether its list of areas in use is trusted."""

    vm: Any
    snapshot: Any
    others: Sequence[str]
    """Names of the VM's snapshots that are not of this repository."""
    untracked: str | None
    """Why changes are not tracked; None if they are."""


def ask_allocation(
    session: Session,
    method: AllocationMethod,
    snapshot: SnapshotFacts,
    disk: DiskFacts,
    by_transport: Callable[[], Sequence[Extent]],
    earlier: Sequence[str],
) -> Claim:
    """Return what is known about the allocation of *disk*; all of it if nobody knows.

    *earlier* has the names of foreign snapshots that may be older than the tracking of the disk.

    Raises:
        AccessDenied: the user lacks the privilege for the query.
        SourceUnavailable: the snapshot was removed, or the server does not answer.
    """
    everything = list(between(0, disk.size))
    if method == "none":
        return Claim("none", everything)
    allocated = by_transport()
    if method == "transport" or total(allocated) < disk.size:
        return Claim("transport", allocated)
    why = _doubt(snapshot, disk, earlier)
    if why is not None:
        return Claim("star", everything, why)
    query = ChangeQuery(snapshot.vm, snapshot.snapshot, disk.key, _EVERYTHING)
    try:
        return Claim("star", changed_areas(session, query, disk.size))
    except ChangeTrackingInvalid as exc:
        return Claim("star", everything, str(exc))


def _doubt(snapshot: SnapshotFacts, disk: DiskFacts, earlier: Sequence[str]) -> str | None:
    """Return why tracking of *disk* may have begun while a snapshot existed, or does not exist."""
    if snapshot.untracked is not None:
        return snapshot.untracked
    if disk.change_id is None:
        return "the snapshot has no change ID of this disk: it is not tracked"
    if snapshot.others:
        return f"tracking may have begun while the VM had the snapshot {snapshot.others[0]}"
    if earlier:
        return f"at an earlier point the VM had the snapshot {earlier[0]}, tracking may be newer"
    if disk.links > 1:
        return "the disk has a parent, as in a linked clone"
    return None
