"""Which of a VM's disks are captured, as the user options and snapshots allow."""

from collections.abc import Sequence
from dataclasses import dataclass

from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.ingest.vsphere.options import IngestOptions, LeftOut
from cbtfs.source.vsphere.inventory.disks import DiskFacts, not_in_snapshots


@dataclass(frozen=True, slots=True)
class DiskSelection:
    """The disks to capture, and the others."""

    disks: list[DiskFacts]
    left_out: list[LeftOut]


def select_disks(options: IngestOptions, disks: Sequence[DiskFacts]) -> DiskSelection:
    """The disks that are wanted and can be had; an error that says why if that is none."""
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
        what = "; ".join(f"{each.disk}: {each.reason}" for each in left_out)
        kind = SourceUnavailable if any(each.is_wanted for each in left_out) else UsageError
        raise kind(f"no disk is left to capture: {what}")
    return DiskSelection(chosen, left_out)
