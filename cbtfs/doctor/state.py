"""What the state of a machine means for its backup: power, snapshots, change tracking, disks."""

from collections.abc import Iterator
from datetime import datetime

from cbtfs.core.names import printable
from cbtfs.doctor.finding import Finding, Severity
from cbtfs.source.vsphere.cbt.readiness import enabling_obstacle
from cbtfs.source.vsphere.cbt.tracking import DiskTracking, tracking_of
from cbtfs.source.vsphere.inventory.disks import DiskFacts, bars_snapshots, not_in_snapshots
from cbtfs.source.vsphere.inventory.machine import Machine, SnapshotEntry
from cbtfs.source.vsphere.snapshots.stun import left_by_stuns, of_a_run, without_stuns

_HOUR = 3600
_DAY = 24 * _HOUR


def of_state(machine: Machine, now: datetime) -> Iterator[Finding]:
    """Findings from what is known of the machine alone; *now* is of the server's clock."""
    if machine.config.template:
        yield Finding(
            "template",
            Severity.BLOCKS,
            "it is a template, which has no snapshots",
            "convert it to a VM, or leave it out",
        )
        return
    if machine.question is not None:
        yield Finding(
            "question",
            Severity.BLOCKS,
            f"it waits for an answer to {machine.question!r}",
            "answer it in the vSphere Client",
        )
    if machine.power == "suspended":
        yield Finding(
            "power",
            Severity.INFO,
            "it is suspended: its disks are captured as they are, its memory is not",
            "resume it, if that matters",
        )
    yield from _of_snapshots(machine, now)
    machine = without_stuns(machine)
    yield from _of_consolidation(machine)
    yield from _of_tracking(machine)
    yield from _of_disks(machine)


def _of_snapshots(machine: Machine, now: datetime) -> Iterator[Finding]:
    stuns = left_by_stuns(machine.snapshots)
    for entry in machine.snapshots:
        text = f"it has the snapshot {entry.name!r}, {_age(entry, now)} old"
        if entry.name in stuns:
            yield Finding(
                "snapshot",
                Severity.INFO,
                f"{text}, left by a 'cbtfs cbt' that was killed",
                "the next backup removes it, and so does 'cbtfs cbt enable'",
            )
        elif of_a_run(entry.name):
            yield Finding(
                "snapshot",
                Severity.WARNING,
                f"{text}, of a run of 'cbtfs ingest vsphere'",
                "let that end; what a killed run left is removed by the next one on the same "
                "repository, and costs fulls on another",
            )
        else:
            yield Finding(
                "snapshot",
                Severity.FULL,
                f"{text}, not of cbtfs (VMware KB 1020128)",
                "remove it, or let who made it do so",
            )


def _age(entry: SnapshotEntry, now: datetime) -> str:
    seconds = max(0.0, (now - entry.created).total_seconds())
    if seconds >= 2 * _DAY:
        return f"{seconds // _DAY:.0f} days"
    if seconds >= 2 * _HOUR:
        return f"{seconds // _HOUR:.0f} hours"
    return f"{seconds // 60:.0f} minutes"


def _of_consolidation(machine: Machine) -> Iterator[Finding]:
    if machine.needs_consolidation:
        yield Finding(
            "consolidation",
            Severity.WARNING if machine.is_tracking else Severity.FULL,
            "its disks need consolidation",
            "consolidate them (Snapshots > Consolidate)",
        )


def _of_tracking(machine: Machine) -> Iterator[Finding]:
    tracking = tracking_of(machine)
    if not tracking.is_supported:
        yield Finding(
            "hardware",
            Severity.FULL,
            f"its virtual hardware {machine.config.version} cannot track changes",
            "power it off, and give 'cbtfs ingest vsphere' --upgrade-hardware",
        )
        return
    if not tracking.is_enabled:
        why = enabling_obstacle(machine)
        if why is None:
            yield Finding(
                "cbt",
                Severity.INFO,
                "change tracking is off",
                "the next backup enables it, and so does 'cbtfs cbt enable'",
            )
        else:
            yield Finding(
                "cbt",
                Severity.FULL,
                f"change tracking is off and is not enabled: {why}",
                "mend that, then run 'cbtfs cbt enable'",
            )
        return
    for each in tracking.missing:
        yield _untracked(each, is_pending=tracking.is_pending)


def _untracked(each: DiskTracking, *, is_pending: bool) -> Finding:
    what = f"{each.disk.label} is not tracked"
    if is_pending and each.switch:
        return Finding(
            "cbt",
            Severity.INFO,
            f"{what} yet: that begins at the next stun",
            "the next backup makes one, and so does 'cbtfs cbt enable'",
        )
    return Finding(
        "cbt", Severity.FULL, f"{what}: {each.reason}", "run 'cbtfs cbt enable', then look again"
    )


def _of_disks(machine: Machine) -> Iterator[Finding]:
    if not machine.disks:
        yield Finding("disk", Severity.BLOCKS, "it has no disk", "leave it out")
    elif all(not_in_snapshots(disk) for disk in machine.disks):
        yield Finding(
            "disk",
            Severity.BLOCKS,
            "no disk of it is in snapshots",
            "make those that matter dependent (persistent), or leave it out",
        )
    for each in tracking_of(machine).disks:
        yield from _of_disk(each)


def _of_disk(each: DiskTracking) -> Iterator[Finding]:
    disk, label = each.disk, printable(each.disk.label)
    bar, left_out = bars_snapshots(disk), not_in_snapshots(disk)
    if bar is not None:
        yield Finding(
            "disk",
            Severity.BLOCKS,
            f"vSphere may refuse snapshots of the VM because of {label}: {bar}",
            _way_out(disk),
        )
    elif left_out is not None:
        yield Finding(
            "disk",
            Severity.WARNING,
            f"{label} is not in the point: {left_out}",
            f"make it dependent (persistent), or give --exclude-disk '{label}'",
        )
    elif not each.can_track:
        yield Finding(
            "disk",
            Severity.FULL,
            f"{label}: {each.reason}",
            "clone the disk, or move it by storage vMotion, to the current format",
        )


def _way_out(disk: DiskFacts) -> str:
    if disk.compatibility == "physicalMode":
        return "change the mapping to virtual compatibility, or make the disk independent"
    if disk.sharing == "sharingMultiWriter":
        return "switch multi-writer off, or make the disk independent"
    return "set the controller's bus sharing to none, or make the disk independent"
