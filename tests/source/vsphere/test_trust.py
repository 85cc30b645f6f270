"""When a change list is believed: arithmetic on what two points know of a disk."""

from dataclasses import replace

import pytest

from cbtfs.core.ids import PointId
from cbtfs.source.base import Since
from cbtfs.source.vsphere.cbt.trust import distrust, foreign_snapshots
from cbtfs.source.vsphere.inventory.disks import DiskFacts

EPOCH = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63"
DISK = DiskFacts(
    key=2000, label="Hard disk 1", size=1 << 30, identity="uuid:x", uuid="x", object_id="1-2000",
    slot="scsi0:0", backing="FlatVer2BackingInfo", path="[d] a/a.vmdk", root="[d] a/a.vmdk",
    links=1, mode="persistent", sharing="sharingNone", compatibility=None, thin=True,
    datastore="datastore-1", change_id=f"{EPOCH}/81",
)  # fmt: skip
SINCE = Since(PointId("0" * 32), f"{EPOCH}/80", 1 << 30, True)
THEN = {"root": "[d] a/a.vmdk"}


def test_the_same_disk_in_the_same_epoch_is_believed() -> None:
    assert distrust(DISK, SINCE, THEN) is None


@pytest.mark.parametrize(
    ("disk", "since", "then", "words"),
    [
        (DISK, replace(SINCE, change_id=None), THEN, "last point has no change ID"),
        (replace(DISK, change_id=None), SINCE, THEN, "snapshot has no change ID"),
        (DISK, SINCE, None, "does not tell where"),
        (DISK, SINCE, {"root": "[e] a/a.vmdk"}, "moved or replaced"),
        (DISK, SINCE, {}, "moved or replaced"),
        (DISK, replace(SINCE, size=(1 << 30) - 512), THEN, "KB 2090639"),
        (DISK, replace(SINCE, size=(1 << 30) + 512), THEN, "KB 2090639"),
        (DISK, replace(SINCE, change_id=f"{EPOCH[:-1]}4/80"), THEN, "started anew"),
        (DISK, replace(SINCE, change_id="80"), THEN, "started anew"),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/81"), THEN, "did not go up"),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/100"), THEN, "did not go up"),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/8f"), THEN, "did not go up"),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/x"), THEN, "did not go up"),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/"), THEN, "did not go up"),
    ],
)
def test_anything_else_is_not(
    disk: DiskFacts, since: Since, then: dict[str, str] | None, words: str
) -> None:
    assert words in str(distrust(disk, since, then))


def test_hexadecimal_numbers_are_compared_as_such() -> None:
    assert distrust(replace(DISK, change_id=f"{EPOCH}/a0"), SINCE, THEN) is None


def test_snapshots_of_others_at_either_point() -> None:
    assert foreign_snapshots([], []) is None
    assert "at the last point" in str(foreign_snapshots(["theirs"], []))
    assert "has a snapshot" in str(foreign_snapshots([], ["theirs"]))
