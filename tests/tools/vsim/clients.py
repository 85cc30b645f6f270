"""Clients of the simulator, and the API calls of a backup."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim

from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator, UserEntry

MIB = 1 << 20
BLOCK = 65536
DISK = 2000


def inventory(*machines: MachineEntry, **parts: Any) -> Inventory:
    """Return an inventory of *machines*; by default, of one running machine with two disks."""
    default = MachineEntry("web1", disks=(DiskEntry(size=4 * MIB), DiskEntry(size=2 * MIB)))
    return Inventory(machines=machines or (default,), **parts)


@contextmanager
def connected(sim: Simulator, user: UserEntry | None = None) -> Iterator[Any]:
    """Log in with SmartConnect; yield the ServiceInstance."""
    account = user or sim.user
    service = SmartConnect(
        host=sim.host,
        port=sim.port,
        user=account.name,
        pwd=account.password,
        sslContext=sim.certificate.client_context(),
    )
    try:
        yield service
    finally:
        Disconnect(service)
        service._stub.DropConnections()  # otherwise the garbage collector closes them


def machine(service: Any, name: str = "web1") -> Any:
    """Return the virtual machine of that name in the first datacenter."""
    return service.content.searchIndex.FindByInventoryPath(f"DC0/vm/{name}")


def finished(task: Any) -> Any:
    """Wait for a task; return its result or raise its error."""
    WaitForTask(task)
    return task.info.result


def enable_cbt(vm: Any, enabled: bool = True) -> None:
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=enabled)))


def take_snapshot(vm: Any, name: str = "backup", quiesce: bool = False) -> Any:
    return finished(vm.CreateSnapshot_Task(name, "", False, quiesce))


def remove(snapshot: Any) -> None:
    finished(snapshot.RemoveSnapshot_Task(False, True))


def disks_of(config: Any) -> list[Any]:
    return [
        device for device in config.hardware.device if isinstance(device, vim.vm.device.VirtualDisk)
    ]


def disk_of(config: Any, key: int = DISK) -> Any:
    return next(disk for disk in disks_of(config) if disk.key == key)


def pages(vm: Any, snapshot: Any, change_id: str, key: int = DISK) -> list[Any]:
    """Return every page of a query, with the loop that VMware documents."""
    capacity = disk_of(snapshot.config, key).capacityInBytes
    received, offset = [], 0
    while offset < capacity:
        page = vm.QueryChangedDiskAreas(snapshot, key, offset, change_id)
        assert page.startOffset == offset
        assert page.length > 0
        received.append(page)
        offset = page.startOffset + page.length
    return received


def changed(vm: Any, snapshot: Any, change_id: str, key: int = DISK) -> list[tuple[int, int]]:
    """Return (start, length) of all extents of a query."""
    return [
        (extent.start, extent.length)
        for page in pages(vm, snapshot, change_id, key)
        for extent in page.changedArea
    ]


def change_id(snapshot: Any, key: int = DISK) -> str:
    """Return the change ID of a snapshot's disk."""
    return str(disk_of(snapshot.config, key).backing.changeId)


def based(vm: Any) -> str:
    """Enable tracking, take and remove a snapshot; return its change ID."""
    enable_cbt(vm)
    snapshot = take_snapshot(vm)
    base = change_id(snapshot)
    remove(snapshot)
    return base
