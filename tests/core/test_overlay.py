"""The record of an overlay: joint images, and records that are refused."""

from dataclasses import replace
from typing import Final

import pytest

from cbtfs.core.ids import DIGEST_BYTES, Digest, DiskId, PointId
from cbtfs.core.overlay import (
    AREA_BYTES,
    JOINT_FORMAT,
    OVERLAY_FORMAT,
    Overlay,
    OverlayDisk,
    decode_overlay,
    encode_overlay,
    joined,
)
from cbtfs.core.pin import PinId
from cbtfs.core.sealed import unseal

ID: Final = "0" * 32
SIZES: Final = (1, AREA_BYTES, AREA_BYTES + 1, 512)


def an_overlay(limit: int | None = 1 << 30) -> Overlay:
    disks = [
        OverlayDisk(DiskId(ID), f"disk {size}", size, Digest(bytes(DIGEST_BYTES)), f"disk{size}")
        for size in SIZES
    ]
    created = "2026-01-01T00:00:00Z"
    return Overlay(PinId(ID), "lab", ID, PointId(ID), "vm", created, limit, tuple(disks))


def test_disks_of_a_joint_image_have_areas_of_their_own() -> None:
    own = an_overlay()
    joint = replace(own, disks=joined(own.disks))

    assert [disk.offset for disk in joint.disks] == [n * AREA_BYTES for n in (0, 1, 2, 4)]
    assert decode_overlay(encode_overlay(joint)) == joint
    assert decode_overlay(encode_overlay(own)) == own
    forms = [unseal(encode_overlay(overlay))["format"] for overlay in (own, joint)]
    assert forms == [OVERLAY_FORMAT, JOINT_FORMAT]


@pytest.mark.parametrize(
    "offsets",
    [
        (0, AREA_BYTES, 2 * AREA_BYTES, 3 * AREA_BYTES),  # the third disk is longer
        (AREA_BYTES, 2 * AREA_BYTES, 3 * AREA_BYTES, 5 * AREA_BYTES),
        (0, AREA_BYTES, 2 * AREA_BYTES, 4 * AREA_BYTES + 512),
        (0, AREA_BYTES, 2 * AREA_BYTES, None),
        (0, 2 * AREA_BYTES, AREA_BYTES, 4 * AREA_BYTES),
    ],
)
def test_areas_that_overlap_or_are_missing_are_refused(offsets: tuple[int | None, ...]) -> None:
    overlay = an_overlay()
    pairs = zip(overlay.disks, offsets, strict=True)
    disks = tuple(replace(disk, offset=offset) for disk, offset in pairs)

    with pytest.raises(ValueError, match=r"area|first disk"):
        decode_overlay(encode_overlay(replace(overlay, disks=disks)))


def test_a_joint_image_without_a_limit_is_refused() -> None:
    overlay = an_overlay(limit=None)

    with pytest.raises(ValueError, match="limit"):
        decode_overlay(encode_overlay(replace(overlay, disks=joined(overlay.disks))))
