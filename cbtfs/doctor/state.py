"""Findings about the state of a VM: power, snapshots, change tracking, disks."""

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
    """Yield the findings that follow from the VM's state; *now* is the server's time."""
    if machine.config.template:
        yield Finding(
            "template",
            Severity.BLOCKS,
            "it is a template, which has no snapshots",
            "convert it to a VM, or exclude it",
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
            "it is suspended: its disks are captured, its memory is not",
            "resume it if the disks alone are not enough",
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
                "the next backup or 'cbtfs cbt enable' removes it",
            )
        elif of_a_run(entry.name):
            yield Finding(
                "snapshot",
                Severity.WARNING,
                f"{text}, of a run of 'cbtfs ingest vsphere'",
                "wait for its end; the snapshot of a killed run is removed by the next run on the "
                "same repository, and causes fulls on other repositories",
            )
        else:
            yield Finding(
                "snapshot",
                Severity.FULL,
                f"{text}, not of cbtfs (VMware KB 1020128)",
                "remove it, or ask its owner to remove it",
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
                "the next backup or 'cbtfs cbt enable' enables it",
            )
        else:
            yield Finding(
                "cbt",
                Severity.FULL,
                f"change tracking is off and cannot be enabled: {why}",
                "fix this, then run 'cbtfs cbt enable'",
            )
        return
    for disk in tracking.missing:
        yield _untracked(disk, is_pending=tracking.is_pending)


def _untracked(tracking: DiskTracking, *, is_pending: bool) -> Finding:
    what = f"{tracking.disk.label} is not tracked"
    if is_pending and tracking.switch:
        return Finding(
            "cbt",
            Severity.INFO,
            f"{what} yet: tracking begins at the next stun",
            "the next backup or 'cbtfs cbt enable' stuns the VM",
        )
    return Finding(
        "cbt",
        Severity.FULL,
        f"{what}: {tracking.reason}",
        "run 'cbtfs cbt enable', then 'cbtfs doctor' again",
    )


def _of_disks(machine: Machine) -> Iterator[Finding]:
    if not machine.disks:
        yield Finding("disk", Severity.BLOCKS, "it has no disk", "exclude it")
    elif all(not_in_snapshots(disk) for disk in machine.disks):
        yield Finding(
            "disk",
            Severity.BLOCKS,
            "snapshots include none of its disks",
            "make the disks to back up dependent (persistent), or exclude the VM",
        )
    for tracking in tracking_of(machine).disks:
        yield from _of_disk(tracking)


def _of_disk(tracking: DiskTracking) -> Iterator[Finding]:
    disk, label = tracking.disk, printable(tracking.disk.label)
    incompatible, excluded = bars_snapshots(disk), not_in_snapshots(disk)
    if incompatible is not None:
        yield Finding(
            "disk",
            Severity.BLOCKS,
            f"vSphere may refuse snapshots of the VM because of {label}: {incompatible}",
            _fix_of_incompatible(disk),
        )
    elif excluded is not None:
        yield Finding(
            "disk",
            Severity.WARNING,
            f"{label} is not in the point: {excluded}",
            f"make it dependent (persistent), or give --exclude-disk '{label}'",
        )
    elif not tracking.can_track:
        yield Finding(
            "disk",
            Severity.FULL,
            f"{label}: {tracking.reason}",
            "convert the disk to the current format by a clone or storage vMotion",
        )


def _fix_of_incompatible(disk: DiskFacts) -> str:
    if disk.compatibility == "physicalMode":
        return "change the mapping to virtual compatibility, or make the disk independent"
    if disk.sharing == "sharingMultiWriter":
        return "disable multi-writer, or make the disk independent"
    return "set the controller's bus sharing to none, or make the disk independent"
