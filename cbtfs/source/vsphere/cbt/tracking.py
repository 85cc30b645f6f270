"""The current state of change tracking of a VM and of its disks.

The flag in the VM's configuration enables tracking. On a running VM it takes effect at the next
stun. A disk is tracked if it has a change ID. Each disk also has its own setting,
`scsi0:0.ctkEnabled` (VDDK Programming Guide, "Enable CBT"; VMware KB 1020128).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cbtfs.source.vsphere.cbt.readiness import setting_of, untracked_disk
from cbtfs.source.vsphere.inventory.disks import DiskFacts, not_in_snapshots
from cbtfs.source.vsphere.inventory.machine import Machine

_TRACKABLE: Final = (
    "FlatVer2BackingInfo",
    "SparseVer2BackingInfo",
    "SeSparseBackingInfo",
    "RawDiskMappingVer1BackingInfo",
    "RawDiskVer2BackingInfo",
)
"""Backing types that have a changeId in the vSphere API."""


@dataclass(frozen=True, slots=True)
class DiskTracking:
    """Tracking of one disk."""

    disk: DiskFacts
    switch: bool | None
    """The disk's own ctkEnabled; None if the VM's settings do not have it."""
    setting: str
    """The name of that setting: scsi0:1.ctkEnabled."""
    can_track: bool
    reason: str | None
    """Why it is not tracked; None if it is."""

    @property
    def is_tracked(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Tracking:
    """Tracking of one VM."""

    is_supported: bool
    is_enabled: bool
    """The flag of the VM."""
    disks: tuple[DiskTracking, ...]
    is_pending: bool
    """The flag takes effect on a disk only at the next stun."""

    @property
    def word(self) -> str:
        if not self.is_supported:
            return "not supported"
        if self.is_pending:
            return "pending" if self.is_enabled else "ending"
        return "on" if self.is_enabled else "off"

    @property
    def missing(self) -> list[DiskTracking]:
        """Disks that support tracking and are not tracked."""
        return [disk for disk in self.disks if disk.can_track and not disk.is_tracked]


def tracking_of(machine: Machine) -> Tracking:
    """Return the state of tracking, without further calls."""
    settings = machine.settings()
    disks = tuple(_disk(machine, settings, disk) for disk in machine.disks)
    if machine.is_tracking:
        is_pending = not machine.is_off and any(
            state.can_track and state.switch and state.disk.change_id is None for state in disks
        )
    else:
        is_pending = any(state.disk.change_id is not None for state in disks)
    return Tracking(machine.can_track, machine.is_tracking, disks, is_pending)


def _disk(machine: Machine, settings: Mapping[str, str], disk: DiskFacts) -> DiskTracking:
    setting = setting_of(disk)
    value = settings.get(setting.lower())
    switch = None if value is None else value.upper() == "TRUE"
    never = not_in_snapshots(disk)
    if never is None and disk.backing not in _TRACKABLE:
        never = f"a backing of type {disk.backing} cannot be tracked"
    return DiskTracking(
        disk,
        switch,
        setting,
        never is None,
        never or _reason(machine, disk, is_switched=bool(switch)),
    )


def _reason(machine: Machine, disk: DiskFacts, *, is_switched: bool) -> str | None:
    """Return why a disk that supports tracking is not tracked."""
    if not machine.can_track:
        return f"the virtual hardware {machine.config.version} cannot track changes"
    if not machine.is_tracking:
        return "change tracking is off"
    if disk.change_id is None and is_switched and not machine.is_off:
        return "tracking begins at the next stun: 'cbtfs cbt enable' stuns the VM"
    why = untracked_disk(machine, disk)
    return None if why is None else why.text


def disk_notes(machine: Machine) -> Iterator[str]:
    """Return notes on disks that are not tracked because of their own setting."""
    tracking = tracking_of(machine)
    for state in tracking.disks if tracking.is_enabled else ():
        is_off = state.switch is False or (state.switch is None and not state.is_tracked)
        if state.can_track and is_off:
            yield (
                f"disk {state.disk.label} is not tracked and is read completely by each run: the "
                f"VM's setting {state.setting} is not TRUE; run 'cbtfs cbt enable'"
            )
