"""When a change list is trusted, according to the metadata of a disk at two points."""

from dataclasses import replace

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.reasons import FullReason
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


def test_the_same_disk_in_the_same_epoch_is_trusted() -> None:
    assert distrust(DISK, SINCE, THEN) is None


@pytest.mark.parametrize(
    ("disk", "since", "then", "code"),
    [
        (DISK, replace(SINCE, change_id=None), THEN, FullReason.BASE_UNKNOWN),
        (replace(DISK, change_id=None), SINCE, THEN, FullReason.NOT_TRACKED),
        (DISK, SINCE, None, FullReason.BASE_UNKNOWN),
        (DISK, SINCE, {"root": "[e] a/a.vmdk"}, FullReason.MOVED),
        (DISK, SINCE, {}, FullReason.MOVED),
        (DISK, replace(SINCE, size=(1 << 30) - 512), THEN, FullReason.RESIZED),
        (DISK, replace(SINCE, size=(1 << 30) + 512), THEN, FullReason.RESIZED),
        (DISK, replace(SINCE, change_id=f"{EPOCH[:-1]}4/80"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id="80"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/81"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/100"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/8f"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/x"), THEN, FullReason.TRACKING_RESET),
        (DISK, replace(SINCE, change_id=f"{EPOCH}/"), THEN, FullReason.TRACKING_RESET),
    ],
)
def test_any_difference_is_a_reason_for_distrust(
    disk: DiskFacts, since: Since, then: dict[str, str] | None, code: FullReason
) -> None:
    reason = distrust(disk, since, then)

    assert reason is not None
    assert reason.code is code


def test_hexadecimal_numbers_are_compared_as_such() -> None:
    assert distrust(replace(DISK, change_id=f"{EPOCH}/a0"), SINCE, THEN) is None


def test_foreign_snapshots_at_either_point_are_a_reason_for_distrust() -> None:
    assert foreign_snapshots([], []) is None
    for reason in (foreign_snapshots(["theirs"], []), foreign_snapshots([], ["theirs"])):
        assert reason is not None
        assert reason.code is FullReason.FOREIGN_SNAPSHOT
