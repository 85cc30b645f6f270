"""What the tests of the simulator share: clients, and the calls that every backup makes."""

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
    """One machine that is on, with two disks, or those given."""
    default = MachineEntry("web1", disks=(DiskEntry(size=4 * MIB), DiskEntry(size=2 * MIB)))
    return Inventory(machines=machines or (default,), **parts)


@contextmanager
def connected(sim: Simulator, user: UserEntry | None = None) -> Iterator[Any]:
    """A logged-in ServiceInstance, as SmartConnect makes it."""
    who = user or sim.user
    service = SmartConnect(
        host=sim.host,
        port=sim.port,
        user=who.name,
        pwd=who.password,
        sslContext=sim.certificate.client_context(),
    )
    try:
        yield service
    finally:
        Disconnect(service)
        service._stub.DropConnections()  # else they are closed when garbage is collected


def machine(service: Any, name: str = "web1") -> Any:
    """The virtual machine of that name in the first datacenter."""
    return service.content.searchIndex.FindByInventoryPath(f"DC0/vm/{name}")


def finished(task: Any) -> Any:
    """The result of the task; raises its error."""
    WaitForTask(task)
    return task.info.result


def enable_cbt(vm: Any, enabled: bool = True) -> None:
    finished(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=enabled)))


def take_snapshot(vm: Any, name: str = "backup", quiesce: bool = False) -> Any:
    return finished(vm.CreateSnapshot_Task(name, "", False, quiesce))


def remove(snapshot: Any) -> None:
    finished(snapshot.RemoveSnapshot_Task(False, True))


def disks_of(config: Any) -> list[Any]:
    return [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk)]


def disk_of(config: Any, key: int = DISK) -> Any:
    return next(disk for disk in disks_of(config) if disk.key == key)


def pages(vm: Any, snapshot: Any, change_id: str, key: int = DISK) -> list[Any]:
    """Every page of a query, by the loop that VMware documents."""
    capacity = disk_of(snapshot.config, key).capacityInBytes
    found, offset = [], 0
    while offset < capacity:
        page = vm.QueryChangedDiskAreas(snapshot, key, offset, change_id)
        assert page.startOffset == offset
        assert page.length > 0
        found.append(page)
        offset = page.startOffset + page.length
    return found


def changed(vm: Any, snapshot: Any, change_id: str, key: int = DISK) -> list[tuple[int, int]]:
    """(start, length) of all extents."""
    return [
        (extent.start, extent.length)
        for page in pages(vm, snapshot, change_id, key)
        for extent in page.changedArea
    ]
