"""Select the disks of a VM to capture, by the options and the limits of snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass

from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.ingest.vsphere.options import IngestOptions, LeftOut
from cbtfs.source.vsphere.inventory.disks import DiskFacts, not_in_snapshots


@dataclass(frozen=True, slots=True)
class DiskSelection:
    """The disks to capture, and those left out."""

    disks: tuple[DiskFacts, ...]
    left_out: tuple[LeftOut, ...]


def select_disks(options: IngestOptions, disks: Sequence[DiskFacts]) -> DiskSelection:
    """Return the disks that the options include and snapshots contain.

    Raises:
        SourceUnavailable: no disk remains, and at least one cannot be captured.
        UsageError: no disk remains, because the options exclude all.
    """
    chosen: list[DiskFacts] = []
    left_out: list[LeftOut] = []
    for disk in disks:
        names = (disk.label, str(disk.key))
        reason = not_in_snapshots(disk)
        if options.include and not any(name in options.include for name in names):
            left_out.append(LeftOut(disk.label, disk.key, "not included", False))
        elif any(name in options.exclude for name in names):
            left_out.append(LeftOut(disk.label, disk.key, "excluded", False))
        elif reason is not None:
            left_out.append(LeftOut(disk.label, disk.key, reason, True))
        else:
            chosen.append(disk)
    if not chosen:
        reasons = "; ".join(f"{disk.disk}: {disk.reason}" for disk in left_out)
        kind = SourceUnavailable if any(disk.is_wanted for disk in left_out) else UsageError
        raise kind(f"no disk to capture: {reasons}")
    return DiskSelection(tuple(chosen), tuple(left_out))
