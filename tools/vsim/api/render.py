"""Conversion of model values to vSphere data objects: configuration, devices, files."""

from collections.abc import Iterable
from typing import Any

from tools.vsim.fault import MoRef
from tools.vsim.model.disk import DiskSpec, Link
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.slots import CONTROLLER_KEYS, controller_key, parse_slot
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.model.spec import MachineSpec
from tools.vsim.model.world import World
from tools.vsim.soap.vmodl import long, managed_object, typed, vim

VirtualDisk = vim.vm.device.VirtualDisk
BACKINGS = {
    "flat2": VirtualDisk.FlatVer2BackingInfo,
    "flat1": VirtualDisk.FlatVer1BackingInfo,
    "sparse2": VirtualDisk.SparseVer2BackingInfo,
    "sparse1": VirtualDisk.SparseVer1BackingInfo,
    "sesparse": VirtualDisk.SeSparseBackingInfo,
    "rdm-virtual": VirtualDisk.RawDiskMappingVer1BackingInfo,
    "rdm-physical": VirtualDisk.RawDiskMappingVer1BackingInfo,
    "raw2": VirtualDisk.RawDiskVer2BackingInfo,
}
CONTROLLERS = {
    "scsi": vim.vm.device.ParaVirtualSCSIController,
    "sata": vim.vm.device.VirtualAHCIController,
    "nvme": vim.vm.device.VirtualNVMEController,
    "ide": vim.vm.device.VirtualIDEController,
}


def render_config(world: World, machine: SimulatedMachine) -> Any:
    """Return the present VirtualMachineConfigInfo."""
    disks = [
        _disk(world, disk.spec, disk.path, disk.current, _visible(machine, disk.change_id, disk))
        for disk in machine.disks
    ]
    return _config(world, machine, machine.spec, disks)


def render_snapshot_config(world: World, machine: SimulatedMachine, snapshot: Snapshot) -> Any:
    """Return the VirtualMachineConfigInfo of a snapshot."""
    disks = [
        _disk(
            world,
            state.spec,
            state.disk.path,
            state.link,
            _visible(machine, state.tracked.change_id if state.tracked else None, state.disk),
        )
        for state in snapshot.disks
    ]
    return _config(world, machine, snapshot.spec, disks)


def _visible(machine: SimulatedMachine, change_id: str | None, disk: Any) -> str | None:
    return None if machine.cbt_of(disk).no_change_id else change_id


def _config(world: World, machine: SimulatedMachine, spec: MachineSpec, disks: list[Any]) -> Any:
    return vim.vm.ConfigInfo(
        changeVersion=str(machine.change_version),
        modified=world.now(),
        name=spec.name,
        guestFullName="Ubuntu Linux (64-bit)",
        version=f"vmx-{spec.hardware:02d}",
        uuid=spec.bios_uuid,
        instanceUuid=spec.instance_uuid,
        template=spec.template,
        guestId=spec.guest_id,
        alternateGuestName="",
        annotation=spec.annotation,
        files=vim.vm.FileInfo(
            vmPathName=vmx_path(machine),
            snapshotDirectory=f"[{machine.datastore}] {machine.directory}/",
            logDirectory=f"[{machine.datastore}] {machine.directory}/",
        ),
        flags=vim.vm.FlagInfo(),
        defaultPowerOps=vim.vm.DefaultPowerOpInfo(),
        hardware=vim.vm.VirtualHardware(
            numCPU=spec.cpus,
            memoryMB=spec.memory_mib,
            device=[*_controllers(disks, machine.shared_bus), *disks],
        ),
        changeTrackingEnabled=spec.cbt,
        extraConfig=[
            vim.option.OptionValue(key=key, value=value)
            for key, value in sorted(spec.extra.items())
        ],
        datastoreUrl=[
            vim.vm.ConfigInfo.DatastoreUrlPair(name=name, url=f"/vmfs/volumes/{name}")
            for name in sorted({machine.datastore, *(disk.datastore for disk in machine.disks)})
        ],
    )


def vmx_path(machine: SimulatedMachine) -> str:
    """Return the datastore path of the .vmx file."""
    return f"[{machine.datastore}] {machine.directory}/{machine.directory}.vmx"


def _controllers(disks: Iterable[Any], sharing: str) -> list[Any]:
    keys = sorted({disk.controllerKey for disk in disks})
    built = []
    for key in keys:
        bus = next(bus for bus, first in CONTROLLER_KEYS.items() if first <= key < first + 10)
        controller = CONTROLLERS[bus](
            key=key,
            busNumber=key - CONTROLLER_KEYS[bus],
            device=[disk.key for disk in disks if disk.controllerKey == key],
            deviceInfo=vim.Description(label=f"{bus} {key}", summary=bus),
        )
        if bus == "scsi":
            controller.sharedBus = typed(vim.vm.device.VirtualSCSIController.Sharing, sharing)
        built.append(controller)
    return built


def _disk(world: World, spec: DiskSpec, path: Any, link: Link, change_id: str | None) -> Any:
    slot = parse_slot(spec.slot)
    return VirtualDisk(
        key=spec.key,
        deviceInfo=vim.Description(label=spec.label, summary=f"{spec.size >> 10:,} KB"),
        controllerKey=controller_key(slot),
        unitNumber=slot.unit,
        capacityInKB=long(spec.size >> 10),
        capacityInBytes=long(spec.size),
        diskObjectId=spec.object_id,
        backing=_backing(world, spec, path, link, change_id),
    )


def _backing(world: World, spec: DiskSpec, path: Any, link: Link, change_id: str | None) -> Any:
    backing = BACKINGS[spec.backing]()
    name = path(link)
    values: dict[str, Any] = {
        "fileName": name,
        "descriptorFileName": name,
        "deviceName": f"vml.{spec.uuid.replace('-', '')}",
        "datastore": managed_object(
            MoRef("vim.Datastore", world.datastores[name[1 : name.index("]")]].moid)
        ),
        "diskMode": spec.mode,
        "thinProvisioned": spec.provisioning == "thin",
        "eagerlyScrub": spec.provisioning == "eager",
        "uuid": spec.uuid,
        "changeId": change_id,
        "sharing": spec.sharing,
        "compatibilityMode": {"rdm-virtual": "virtualMode", "rdm-physical": "physicalMode"}.get(
            spec.backing
        ),
    }
    known = {info.name for info in backing._GetPropertyList()}
    for key, value in values.items():
        if key in known and value is not None:
            setattr(backing, key, value)
    if link.parent is not None and "parent" in known:
        backing.parent = _backing(world, spec, path, link.parent, None)
    return backing
