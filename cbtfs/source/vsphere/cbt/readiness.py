"""Prepare a VM for capture: enable change tracking if it is off and can be enabled.

Tracking needs virtual hardware 7. It must not be enabled while the VM has a snapshot or a leftover
delta disk. It begins at the next stun, which is the snapshot of the capture (VDDK Programming
Guide, "Enable CBT"; VMware KB 1020128).
"""

import logging
from dataclasses import dataclass
from typing import Final

from pyVmomi import vim, vmodl

from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.cbt.reconfigure import reconfigure
from cbtfs.source.vsphere.connect.faults import error_of, text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task_retry import run_task
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import Machine, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm

log = logging.getLogger(__name__)

OLDEST_HARDWARE: Final = 7


@dataclass(frozen=True, slots=True)
class Ready:
    """A VM that is ready to be captured."""

    machine: Machine
    untracked: Reason | None = None
    """Why changes are not tracked; None if they are, or will be after the snapshot."""
    done: str | None = None
    """The changes that cbtfs made to the VM."""


def make_ready(session: Session, vm: ListedVm, machine: Machine, *, may_upgrade: bool) -> Ready:
    """Enable change tracking if possible, and the hardware upgrade if *may_upgrade*.

    SourceUnavailable if the VM cannot be captured at all.
    """
    if machine.config.template:
        raise SourceUnavailable(
            "it is a template, which has no snapshots: convert it to a VM, or exclude it"
        )
    if not machine.disks:
        raise SourceUnavailable("it has no disk: exclude it")
    upgraded = None
    if not machine.can_track and may_upgrade:
        machine, upgraded = _upgrade(session, vm, machine)
    if not machine.can_track:
        return Ready(
            machine,
            Reason(
                FullReason.HARDWARE,
                f"its virtual hardware {machine.config.version} cannot track changes: power it "
                "off and give --upgrade-hardware",
            ),
            upgraded,
        )
    if machine.is_tracking:
        return Ready(machine, None, upgraded)
    obstacle = enabling_obstacle(machine)
    if obstacle is not None:
        return Ready(
            machine, _off(f"change tracking is off and cannot be enabled: {obstacle}"), upgraded
        )
    machine, obstacle = _enable(session, vm)
    if obstacle is not None and not machine.is_tracking:
        return Ready(
            machine, _off(f"change tracking is off and cannot be enabled: {obstacle}"), upgraded
        )
    if not machine.is_tracking:
        return Ready(machine, _off("change tracking is still off after it was enabled"), upgraded)
    changes = [upgraded, "change tracking enabled"]
    return Ready(machine, None, ", ".join(change for change in changes if change))


def _off(text: str) -> Reason:
    return Reason(FullReason.TRACKING_OFF, text)


def enabling_obstacle(machine: Machine) -> str | None:
    """Return why an ingest does not enable tracking; None if it does."""
    if machine.snapshots:
        return f"the VM has a snapshot, {machine.snapshots[0].name}"
    if machine.needs_consolidation:
        return "the VM's disks need consolidation"
    if machine.power == "suspended":
        return "the VM is suspended"
    return None


def _upgrade(session: Session, vm: ListedVm, machine: Machine) -> tuple[Machine, str | None]:
    if not machine.is_off or machine.snapshots:
        log.warning("%s: not upgraded: the VM must be powered off and have no snapshot", vm.path)
        return machine, None
    what = "upgrade the virtual hardware"
    try:
        run_task(session, lambda: machine.object.UpgradeVM_Task(None), what)
    except vim.fault.AlreadyUpgraded as fault:
        log.info("%s: %s", what, text_of(fault))
    except vmodl.MethodFault as fault:
        raise error_of(fault, what) from fault
    now = load_machine(session, vm)
    return now, f"virtual hardware upgraded from {machine.config.version} to {now.config.version}"


def _enable(session: Session, vm: ListedVm) -> tuple[Machine, str | None]:
    """Enable tracking; return the machine afterwards, and why it was not enabled, or None.

    The VM is checked again right before the task, because another product may have taken a
    snapshot.
    """

    def check(machine: Machine) -> None:
        why = enabling_obstacle(machine)
        if why is not None:
            raise _Obstacle(why)

    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)
    try:
        return reconfigure(session, vm, "enable change tracking", spec, check), None
    except _Obstacle as why:
        return load_machine(session, vm), str(why)
    except SourceUnavailable as exc:
        log.warning("%s: %s", vm.path, exc)
        return load_machine(session, vm), None


class _Obstacle(Exception):
    """Raised when tracking must not be enabled now."""


def setting_of(disk: DiskFacts) -> str:
    """Return the name of the disk's own switch in extraConfig: scsi0:1.ctkEnabled."""
    return f"{disk.slot}.ctkEnabled"


def untracked_disk(machine: Machine, disk: DiskFacts) -> Reason | None:
    """Return why a disk of a tracked VM has no change ID; None if unknown."""
    if disk.change_id is not None:
        return None
    setting = setting_of(disk)
    if machine.settings().get(setting.lower(), "").upper() != "TRUE":
        text = f"it is not tracked: the VM's setting {setting} is not TRUE"
    else:
        text = f"it is not tracked: no change ID, with a backing of type {disk.backing}"
    return Reason(FullReason.NOT_TRACKED, text)
