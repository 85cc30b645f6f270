"""The virtual disks in a VM's configuration, with the identity of each within the VM."""

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
    """A disk in the configuration of a VM or of a snapshot."""

    key: int
    """The device key."""
    label: str
    size: int
    """Bytes."""
    identity: str
    """The disk's key within the VM in a repository: the UUID of the backing or the device key."""
    uuid: str | None
    object_id: str | None
    slot: str
    """Controller and unit in the form of extraConfig: scsi0:1."""
    backing: str
    """The type of the backing: FlatVer2BackingInfo, SeSparseBackingInfo …"""
    path: str
    """`[datastore] folder/name.vmdk`, or the name of the device."""
    root: str
    """The path of the first link of the chain, which snapshots do not change."""
    links: int
    """Number of files in the chain."""
    mode: str
    sharing: str
    compatibility: str | None
    thin: bool | None
    datastore: str | None
    """The managed object id."""
    change_id: str | None
    bus_sharing: str = "noSharing"
    """Bus sharing of its SCSI controller: virtualSharing, physicalSharing."""

    @property
    def is_flat(self) -> bool:
        return self.backing in _FLAT

    def metadata(self) -> dict[str, Any]:
        """Return the members for the manifest, as JSON values."""
        return asdict(self)


def disks_of(config: Any) -> list[DiskFacts]:
    """Return the disks of a VirtualMachineConfigInfo in ascending order of their keys."""
    devices = {device.key: device for device in config.hardware.device}
    disks = [
        _facts(device, devices)
        for key, device in sorted(devices.items())
        if isinstance(device, vim.vm.device.VirtualDisk)
    ]
    return list(_distinct(disks))


def _distinct(disks: Sequence[DiskFacts]) -> Iterator[DiskFacts]:
    """Make identities and labels unique: for duplicates, use the device key or append it."""
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
    """Yield the backing and its parents; only some types have a parent."""
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
    """Return why vSphere may refuse snapshots of a VM with this disk; None if it does not.

    An independent disk does not prevent them (SnapshotIncompatibleDeviceInVm; VMware KB 1020128).
    """
    if disk.mode.startswith("independent"):
        return None
    if disk.compatibility == "physicalMode":
        return "it is a raw device mapping in physical compatibility mode"
    if disk.sharing == "sharingMultiWriter":
        return "several VMs may write to it (multi-writer)"
    if disk.bus_sharing != "noSharing":
        return f"its SCSI controller shares the bus ({disk.bus_sharing})"
    return None


def not_in_snapshots(disk: DiskFacts) -> str | None:
    """Return why snapshots do not include this disk; None if they do.

    Snapshots exclude independent disks, physical RDMs and multi-writer disks (VMware KB 1020128;
    VirtualDiskMode in the vSphere API reference).
    """
    if disk.mode.startswith("independent"):
        return f"snapshots exclude it: its mode is {disk.mode}"
    if disk.compatibility == "physicalMode":
        return "snapshots exclude it: it is a raw device mapping in physical compatibility mode"
    if disk.sharing == "sharingMultiWriter":
        return "snapshots exclude it: several VMs may write to it (multi-writer)"
    return None
