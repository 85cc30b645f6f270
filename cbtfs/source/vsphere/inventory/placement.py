"""The placement of a VM: its host and the datastores of its disks."""

from dataclasses import dataclass
from typing import Final

from pyVmomi import vim

from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import read
from cbtfs.source.vsphere.inventory.vms import ListedVm

_PATHS: Final = ("runtime.host", "config.hardware.device")


@dataclass(frozen=True, slots=True)
class Placement:
    """Host and datastores of a VM, for the limits per host and per datastore."""

    host: str | None
    """The managed object id."""
    datastores: frozenset[str]
    """Managed object ids of the disks' datastores; ISO images do not count."""
    disks: int


def load_placement(session: Session, vm: ListedVm) -> Placement:
    """Return the current placement of *vm*, by one call; vMotion may change it at any time."""
    values = read(session, vm.object, *_PATHS)
    disks = [
        device
        for device in values.get("config.hardware.device") or ()
        if isinstance(device, vim.vm.device.VirtualDisk)
    ]
    stores = [getattr(disk.backing, "datastore", None) for disk in disks]
    host = values.get("runtime.host")
    return Placement(
        None if host is None else str(host._moId),
        frozenset(str(store._moId) for store in stores if store is not None),
        len(disks),
    )
