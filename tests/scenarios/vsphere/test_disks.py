"""Facts about disks from a VM's configuration in pyVmomi's types."""

import pytest
from pyVmomi import vim

from cbtfs.source.vsphere.inventory.disks import DiskFacts, disks_of

Disk = tuple[int, str, str | None]


def facts(*disks: Disk) -> list[DiskFacts]:
    """Return the facts of disks given as (key, label, UUID), on one controller."""
    controller = vim.vm.device.VirtualLsiLogicController(key=1000, busNumber=0)
    devices: list[object] = [controller]
    for number, (key, label, uuid) in enumerate(disks):
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[store] vm/{number}.vmdk", diskMode="persistent", uuid=uuid
        )
        devices.append(
            vim.vm.device.VirtualDisk(
                key=key,
                controllerKey=1000,
                unitNumber=number,
                capacityInBytes=4096,
                capacityInKB=4,
                backing=backing,
                deviceInfo=vim.Description(label=label, summary=""),
            )
        )
    hardware = vim.vm.VirtualHardware(device=devices)
    return disks_of(vim.vm.ConfigInfo(hardware=hardware))


def test_a_disk_is_identified_by_its_uuid() -> None:
    disks = facts((2001, "b", "uuid-b"), (2000, "a", "uuid-a"))

    assert [disk.key for disk in disks] == [2000, 2001]
    assert len({disk.identity for disk in disks}) == 2
    assert not any(disk.identity.startswith("key:") for disk in disks)
    assert [disk.label for disk in disks] == ["a", "b"]


@pytest.mark.parametrize("uuid", [None, "the same"])
def test_a_disk_without_a_unique_uuid_is_identified_by_its_key(uuid: str | None) -> None:
    disks = facts((2000, "a", uuid), (2001, "b", uuid), (2002, "c", "its own"))

    assert [disk.identity for disk in disks[:2]] == ["key:2000", "key:2001"]
    assert not disks[2].identity.startswith("key:")


def test_labels_that_are_shared_get_the_key() -> None:
    disks = facts((2000, "disk", "1"), (2001, "disk", "2"), (2002, "other", "3"))

    assert [disk.label for disk in disks] == ["disk (2000)", "disk (2001)", "other"]
