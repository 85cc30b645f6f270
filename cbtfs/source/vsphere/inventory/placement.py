"""Where a machine is now: its host, and the datastores that its disks are on."""

from dataclasses import dataclass
from typing import Final

from pyVmomi import vim

from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import read
from cbtfs.source.vsphere.inventory.vms import ListedVm

_PATHS: Final = ("runtime.host", "config.hardware.device")


@dataclass(frozen=True, slots=True)
class Placement:
    """Whom a machine shares its host and its storage with depends on this."""

    host: str | None
    """The managed object id."""
    datastores: frozenset[str]
    """Managed object ids, of disks only: an ISO image in the drive is on another one."""
    disks: int


def load_placement(session: Session, vm: ListedVm) -> Placement:
    """Where *vm* is, by one call; it moves whenever vMotion likes."""
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
