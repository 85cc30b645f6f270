"""The virtual disks in a machine's configuration, and whose history each of them is."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pyVmomi import vim

from cbtfs.errors import SourceUnavailable

_BUSES: Final = (
    (vim.vm.device.VirtualSCSIController, "scsi"),
    (vim.vm.device.VirtualSATAController, "sata"),
    (vim.vm.device.VirtualNVMEController, "nvme"),
    (vim.vm.device.VirtualIDEController, "ide"),
)
_FLAT: Final = ("FlatVer2BackingInfo", "FlatVer1BackingInfo")
_MAX_CHAIN: Final = 64


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk as the configuration of a machine or of a snapshot shows it."""

    key: int
    """The device key."""
    label: str
    size: int
    """Bytes."""
    identity: str
    """Whose history it is within the VM: the backing's UUID or, without one, the device key."""
    uuid: str | None
    object_id: str | None
    slot: str
    """As extraConfig spells it: scsi0:1."""
    backing: str
    """The type of the backing: FlatVer2BackingInfo, SeSparseBackingInfo …"""
    path: str
    """`[datastore] folder/name.vmdk`, or the name of the device."""
    root: str
    """The path of the first link of the chain: it stays the same while snapshots come and go."""
    links: int
    """Files in the chain."""
    mode: str
    sharing: str
    compatibility: str | None
    thin: bool | None
    datastore: str | None
    """The managed object id."""
    change_id: str | None
    bus_sharing: str = "noSharing"
    """Of its SCSI controller: virtualSharing, physicalSharing."""

    @property
    def is_flat(self) -> bool:
        return self.backing in _FLAT

    def metadata(self) -> dict[str, Any]:
        """For the manifest: JSON."""
        return asdict(self)


def disks_of(config: Any) -> list[DiskFacts]:
    """The disks of a VirtualMachineConfigInfo, in the order of their keys."""
    devices = {device.key: device for device in config.hardware.device}
    found = [
        _facts(device, devices)
        for key, device in sorted(devices.items())
        if isinstance(device, vim.vm.device.VirtualDisk)
    ]
    return list(_distinct(found))


def _distinct(disks: Sequence[DiskFacts]) -> Iterator[DiskFacts]:
    """A UUID that two disks share names neither; a label that two share gets the key."""
    uuids = Counter(disk.uuid for disk in disks)
    labels = Counter(disk.label for disk in disks)
    for disk in disks:
        if disk.uuid is None or uuids[disk.uuid] > 1:
            disk = replace(disk, identity=f"key:{disk.key}")
        if labels[disk.label] > 1:
            disk = replace(disk, label=f"{disk.label} ({disk.key})")
        yield disk


def _facts(device: Any, devices: Mapping[int, Any]) -> DiskFacts:
    backing = device.backing
    chain = list(_chain(backing))
    uuid = getattr(backing, "uuid", None)
    path = _path(backing)
    info = device.deviceInfo
    datastore = getattr(backing, "datastore", None)
    return DiskFacts(
        key=int(device.key),
        label=str(info.label if info is not None and info.label else f"disk {device.key}"),
        size=int(device.capacityInBytes or device.capacityInKB * 1024),
        identity=f"uuid:{str(uuid).lower()}",
        uuid=str(uuid).lower() if uuid else None,
        object_id=device.diskObjectId,
        slot=_slot(device, devices.get(device.controllerKey)),
        backing=type(backing).__name__.rpartition(".")[2],
        path=path,
        root=_path(chain[-1]),
        links=len(chain),
        mode=str(getattr(backing, "diskMode", None) or "persistent"),
        sharing=str(getattr(backing, "sharing", None) or "sharingNone"),
        compatibility=getattr(backing, "compatibilityMode", None),
        thin=getattr(backing, "thinProvisioned", None),
        datastore=None if datastore is None else str(datastore._moId),
        change_id=getattr(backing, "changeId", None) or None,
        bus_sharing=str(
            getattr(devices.get(device.controllerKey), "sharedBus", None) or "noSharing"
        ),
    )


def _chain(backing: Any) -> Iterator[Any]:
    """The backing and its parents, which only some types have."""
    for _ in range(_MAX_CHAIN):
        yield backing
        backing = getattr(backing, "parent", None)
        if backing is None:
            return
    raise SourceUnavailable(f"a disk has more than {_MAX_CHAIN} links: consolidate the VM")


def _path(backing: Any) -> str:
    return str(getattr(backing, "fileName", None) or getattr(backing, "deviceName", None) or "")


def _slot(device: Any, controller: Any) -> str:
    for kind, bus in _BUSES:
        if isinstance(controller, kind):
            return f"{bus}{controller.busNumber}:{device.unitNumber}"
    return ""


def bars_snapshots(disk: DiskFacts) -> str | None:
    """Why vSphere may refuse snapshots of a VM with this disk; None if it has no reason to.

    An independent disk never bars them (SnapshotIncompatibleDeviceInVm; VMware KB 1020128).
    """
    if disk.mode.startswith("independent"):
        return None
    if disk.compatibility == "physicalMode":
        return "it is a raw device mapping in physical compatibility mode"
    if disk.sharing == "sharingMultiWriter":
        return "several machines may write to it (multi-writer)"
    if disk.bus_sharing != "noSharing":
        return f"its SCSI controller shares the bus ({disk.bus_sharing})"
    return None


def not_in_snapshots(disk: DiskFacts) -> str | None:
    """Why snapshots do not hold this disk still; None if they do.

    Independent disks, physical RDMs and disks shared by several writers have no part in them
    (VMware KB 1020128; VirtualDiskMode in the vSphere API reference).
    """
    if disk.mode.startswith("independent"):
        return f"snapshots leave it out: its mode is {disk.mode}"
    if disk.compatibility == "physicalMode":
        return "snapshots leave it out: it is a raw device mapping in physical compatibility mode"
    if disk.sharing == "sharingMultiWriter":
        return "snapshots leave it out: several machines may write to it (multi-writer)"
    return None
