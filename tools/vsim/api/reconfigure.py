"""ReconfigVM_Task: the supported fields of a ConfigSpec and their privileges."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tools.vsim.fault import Fault
from tools.vsim.inventory import DiskEntry, InventoryError
from tools.vsim.model.disk import SimulatedDisk
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.slots import slot_of
from tools.vsim.model.world import World
from tools.vsim.soap.vmodl import vim

PRIVILEGES = {
    "changeTrackingEnabled": "VirtualMachine.Config.ChangeTracking",
    "extraConfig": "VirtualMachine.Config.AdvancedConfig",
    "name": "VirtualMachine.Config.Rename",
    "annotation": "VirtualMachine.Config.Rename",
}
DEVICE_PRIVILEGES = {
    "add": "VirtualMachine.Config.AddNewDisk",
    "remove": "VirtualMachine.Config.RemoveDisk",
    "edit": "VirtualMachine.Config.DiskExtend",
}


def check_spec(spec: Any, require: Callable[[str], None]) -> None:
    """Call *require* with the privilege of every field that is set."""
    for name, privilege in PRIVILEGES.items():
        if getattr(spec, name) not in (None, []):
            require(privilege)
    for change in spec.deviceChange:
        require(DEVICE_PRIVILEGES[str(change.operation)])


def reconfigure(world: World, machine: SimulatedMachine, spec: Any) -> None:
    """Apply *spec*; raises Fault, before the first change where possible."""
    if spec.changeVersion and spec.changeVersion != str(machine.change_version):
        raise Fault("vim.fault.ConcurrentAccess", "The configuration has changed.")
    if spec.name:
        world.rename(machine, spec.name)
    if spec.annotation is not None:
        machine.configure(replace(machine.spec, annotation=spec.annotation))
    if spec.changeTrackingEnabled is not None:
        machine.set_tracking(spec.changeTrackingEnabled)
    if spec.extraConfig:
        extra = dict(machine.spec.extra)
        for option in spec.extraConfig:
            if option.value in (None, ""):
                extra.pop(option.key, None)
            else:
                extra[option.key] = str(option.value)
        machine.configure(replace(machine.spec, extra=extra))
    for index, change in enumerate(spec.deviceChange):
        _change_disk(world, machine, change, index)


def _change_disk(world: World, machine: SimulatedMachine, change: Any, index: int) -> None:
    device = change.device
    invalid = Fault(
        "vim.fault.InvalidDeviceSpec",
        f"Invalid configuration for device '{index}'.",
        deviceIndex=index,
        property="device",
    )
    if not isinstance(device, vim.vm.device.VirtualDisk):
        raise invalid
    if change.operation == "remove":
        machine.remove_disk(device.key)
    elif change.operation == "edit":
        machine.grow_disk(device.key, _capacity(device))
    else:
        machine.add_disk(_new_disk(world, machine, device, invalid))


def _new_disk(
    world: World, machine: SimulatedMachine, device: Any, invalid: Fault
) -> SimulatedDisk:
    try:
        entry = DiskEntry(
            size=_capacity(device),
            slot=slot_of(device.controllerKey or 1000, device.unitNumber or 0),
            mode=device.backing.diskMode or "persistent",
        )
        return world.make_disk(machine, entry)
    except (InventoryError, AttributeError) as error:
        raise invalid from error


def _capacity(device: Any) -> int:
    return int(device.capacityInBytes or device.capacityInKB * 1024)
