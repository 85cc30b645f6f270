"""Enable or reset change tracking according to VMware's documentation.

Tracking must not be switched while the VM has a snapshot or a leftover delta disk (the server then
reports that the VM needs consolidation; the delta disks of a linked clone are no obstacle).
Otherwise change lists are wrong without any fault (VMware KB 1020128). Each reconfiguration checks
this first, and passes the version of the checked configuration to the server.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pyVmomi import vim, vmodl

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.cbt.reconfigure import reconfigure
from cbtfs.source.vsphere.cbt.tracking import Tracking, tracking_of
from cbtfs.source.vsphere.connect.faults import error_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import bars_snapshots
from cbtfs.source.vsphere.inventory.machine import Machine, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.stun import stun, sweep_stuns, whose

log = logging.getLogger(__name__)

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Switched:
    """A VM after tracking was switched."""

    machine: Machine
    done: tuple[str, ...]
    """The actions taken, in order; empty if none was needed."""
    warnings: tuple[str, ...]
    """Remaining problems."""


def obstacle(machine: Machine) -> str | None:
    """Return why tracking cannot be switched now, with the fix; None if it can."""
    if machine.config.template:
        return "it is a template, which has no snapshots: convert it to a VM, or exclude it"
    if not machine.can_track:
        return (
            f"its virtual hardware {machine.config.version} cannot track changes: power it off "
            "and upgrade it to vmx-07 or newer"
        )
    if machine.question is not None:
        return f"it waits for an answer to {printable(machine.question)!r}: answer it"
    if machine.snapshots:
        names = [f"{entry.name} ({whose(entry.name)})" for entry in machine.snapshots[:_SHOWN]]
        more = len(machine.snapshots) - _SHOWN
        return (
            "change tracking must not be switched while the VM has a snapshot (VMware KB 1020128): "
            + ", ".join(names)
            + (f", and {more} more" if more > 0 else "")
        )
    if machine.needs_consolidation:
        return "its disks need consolidation: consolidate them (Snapshots > Consolidate)"
    if machine.power == "suspended":
        return "it is suspended: resume it, or power it off"
    return _obstacle_to_stun(machine)


def _obstacle_to_stun(machine: Machine) -> str | None:
    """Return a disk for which vSphere may refuse a snapshot of the running VM."""
    for disk in machine.disks if not machine.is_off else ():
        why = bars_snapshots(disk)
        if why is not None:
            return (
                f"vSphere may refuse the necessary snapshot because of {disk.label}: {why}: power "
                "the VM off, or make that disk independent"
            )
    return None


def enable(
    session: Session, vm: ListedVm, is_stopped: Callable[[], bool] = lambda: False
) -> Switched:
    """Enable tracking of every disk that supports it; raise SourceUnavailable or AccessDenied."""
    done = _swept(session, vm)
    machine = load_machine(session, vm)
    tracking = tracking_of(machine)
    if tracking.is_enabled and not tracking.missing:
        return Switched(machine, tuple(done), ())
    _refuse(machine)
    if not any(disk.can_track for disk in tracking.disks):
        raise SourceUnavailable("it has no disk that can be tracked: exclude it")
    warnings: list[str] = []
    if not tracking.is_enabled:
        machine = _switch(session, vm, is_on=True)
        done.append("change tracking enabled")
    if settings := _settings_to_write(machine):
        machine = _write_settings(session, vm, settings)
        done.append(f"set to TRUE: {', '.join(settings)}")
    if not machine.is_off:
        warnings += _stun(session, vm, is_stopped)
        done.append("VM stunned by a snapshot, so that tracking begins")
        machine = load_machine(session, vm)
    return Switched(machine, tuple(done), (*warnings, *_lacking(tracking_of(machine))))


def reset(
    session: Session, vm: ListedVm, is_stopped: Callable[[], bool] = lambda: False
) -> Switched:
    """Restart tracking: disable it, stun, enable it, stun (VMware KB 2139574).

    A VM that is powered off needs no stun. The next backup reads all disks completely. Raises
    SourceUnavailable or AccessDenied.
    """
    done = _swept(session, vm)
    machine = load_machine(session, vm)
    _refuse(machine)
    before = _epochs(machine)
    warnings: list[str] = []
    try:
        if machine.is_tracking or before:
            machine = _switch(session, vm, is_on=False)
            done.append("change tracking disabled")
            if not machine.is_off:
                warnings += _stun(session, vm, is_stopped)
                done.append("VM stunned by a snapshot, so that tracking ends")
            if is_stopped():
                raise Stopped("interrupted")
        switched = enable(session, vm, is_stopped)
    except CbtfsError as exc:
        if machine.is_tracking:
            raise  # tracking was not disabled
        text = f"{exc}; change tracking is disabled now: fix this, then run 'cbtfs cbt enable'"
        if is_stopped():  # after an interrupt the caller does not report the error
            log.warning("%s: %s", vm.path, text)
        raise type(exc)(text) from exc
    after = _epochs(switched.machine)
    warnings += [
        f"{label} still has the change ID from before the reset: see the VM's events"
        for label, epoch in after.items()
        if before.get(label) == epoch
    ]
    return Switched(switched.machine, (*done, *switched.done), (*warnings, *switched.warnings))


def _swept(session: Session, vm: ListedVm) -> list[str]:
    try:
        removed = sweep_stuns(session, vm.object)
    except vmodl.MethodFault as fault:
        raise error_of(fault, "remove snapshots of a killed 'cbtfs cbt'") from fault
    return [f"removed the snapshot {name}, left by a killed 'cbtfs cbt'" for name in removed]


def _refuse(machine: Machine) -> None:
    why = obstacle(machine)
    if why is not None:
        raise SourceUnavailable(why)


def _settings_to_write(machine: Machine) -> list[str]:
    """Return the `scsiX:Y.ctkEnabled` settings of disks that could be tracked and are not."""
    return [disk.setting for disk in tracking_of(machine).missing if not disk.switch]


def _write_settings(session: Session, vm: ListedVm, settings: Sequence[str]) -> Machine:
    """Set the disks' own settings to TRUE, and return the machine afterwards."""
    options = [vim.option.OptionValue(key=setting, value="TRUE") for setting in settings]
    spec = vim.vm.ConfigSpec(extraConfig=options)
    return reconfigure(session, vm, f"set {', '.join(settings)} to TRUE", spec, _refuse)


def _switch(session: Session, vm: ListedVm, *, is_on: bool) -> Machine:
    """Set the machine's flag, and return the machine afterwards."""
    what = f"{'enable' if is_on else 'disable'} change tracking"
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=is_on)
    machine = reconfigure(session, vm, what, spec, _refuse)
    if machine.is_tracking != is_on:
        now = "off" if is_on else "on"
        raise SourceUnavailable(f"{what}: done, but it is still {now}: see the VM's events")
    return machine


def _stun(session: Session, vm: ListedVm, is_stopped: Callable[[], bool]) -> list[str]:
    left = stun(session, vm.object, is_stopped)
    return [] if left is None else [left]


def _epochs(machine: Machine) -> dict[str, str]:
    """Return by label the part of a change ID that is constant while a disk is tracked."""
    return {
        disk.label: disk.change_id.rpartition("/")[0]
        for disk in machine.disks
        if disk.change_id is not None
    }


def _lacking(tracking: Tracking) -> list[str]:
    return [
        f"{missing.disk.label} is not tracked: {missing.reason}" for missing in tracking.missing
    ]
