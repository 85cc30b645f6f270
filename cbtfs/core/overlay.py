"""The record of an overlay, `overlay.json` in its directory: a sealed JSON document."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Final

from cbtfs.core.fields import (
    MAX_INTEGER,
    Document,
    digest_of,
    file_name,
    id_of,
    integer,
    items,
    moment,
    optional,
    text,
)
from cbtfs.core.ids import Digest, DiskId, PointId
from cbtfs.core.pin import PinId
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import FormatNotSupported

OVERLAY_FORMAT: Final = 1
JOINT_FORMAT: Final = 2
"""Format of an overlay with a joint image, which versions without it refuse."""
AREA_BYTES: Final = 1 << 20
"""Alignment of the disks in a joint image: a multiple of the size of its clusters."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}", re.ASCII)


def is_overlay_name(name: str) -> bool:
    """Return whether *name* is valid: 1 to 64 letters, digits, `.`, `_`, `+`, `-`, as a file name.

    It does not start with a dot or a dash.
    """
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class OverlayDisk:
    """A disk of the point, and the image with its writes."""

    id: DiskId
    label: str
    size: int
    """Bytes of the disk at the point."""
    root: Digest
    """Digest of the root of the block map at the point."""
    stem: str
    """Name of the image and of the raw file, without suffix."""
    offset: int | None = None
    """Start of its area in the joint image; None: the disk has an image of its own."""


def joined(disks: Sequence[OverlayDisk]) -> tuple[OverlayDisk, ...]:
    """Return the disks with areas in a joint image, in their order."""
    placed, offset = [], 0
    for disk in disks:
        placed.append(replace(disk, offset=offset))
        offset = area_end(placed[-1])
    return tuple(placed)


def area_end(disk: OverlayDisk) -> int:
    """Return the end of the area of a disk in the joint image."""
    assert disk.offset is not None
    return -(-(disk.offset + disk.size) // AREA_BYTES) * AREA_BYTES


@dataclass(frozen=True, slots=True)
class Overlay:
    """The disks of a point as one writable set."""

    id: PinId
    """Id of the pin in the repository."""
    name: str
    repository: str
    """Id of the repository."""
    point: PointId
    vm: str
    """Name of the VM at the point."""
    created: str
    limit: int | None
    """Maximum size of an image in bytes; None: no limit."""
    disks: tuple[OverlayDisk, ...]

    @property
    def is_joint(self) -> bool:
        """Return whether all disks have one image, and so one limit."""
        return any(disk.offset is not None for disk in self.disks)


def encode_overlay(overlay: Overlay) -> bytes:
    document = asdict(overlay)
    for disk in document["disks"]:
        disk["root"] = disk["root"].hex()
        if disk["offset"] is None:
            del disk["offset"]
    return seal({"format": JOINT_FORMAT if overlay.is_joint else OVERLAY_FORMAT, **document})


def decode_overlay(data: bytes) -> Overlay:
    """Return the record in a sealed file; ValueError with the reason if it is invalid.

    Raises:
        FormatNotSupported: a newer version of cbtfs wrote it.
    """
    document = unseal(data)
    version = integer(document, "format")
    if version not in (OVERLAY_FORMAT, JOINT_FORMAT):
        raise FormatNotSupported(
            f"the overlay has format {version}, which this version of cbtfs does not support: "
            "upgrade cbtfs"
        )
    name = text(document, "name")
    if not is_overlay_name(name):
        raise ValueError("member 'name' is not the name of an overlay")
    overlay = Overlay(
        PinId(id_of(document, "id")),
        name,
        id_of(document, "repository"),
        PointId(id_of(document, "point")),
        text(document, "vm"),
        moment(document, "created"),
        optional(document, "limit", integer),
        tuple(_disk_of(disk) for disk in items(document, "disks")),
    )
    if overlay.is_joint != (version == JOINT_FORMAT):
        raise ValueError(f"disks of overlay format {version}")
    if overlay.is_joint:
        _require_areas(overlay)
    return overlay


def _require_areas(overlay: Overlay) -> None:
    """Raise ValueError unless the areas of the disks are apart, and the image has a limit."""
    areas = [(disk.offset, disk.size) for disk in overlay.disks]
    for (offset, size), (following, _) in pairwise([*areas, (MAX_INTEGER, 0)]):
        if offset is None or following is None or offset % AREA_BYTES or offset + size > following:
            raise ValueError("member 'offset' is not the start of an area")
    if areas[0][0] != 0 or overlay.limit is None:
        raise ValueError("a joint image needs a limit and starts with the first disk")


def _disk_of(document: Document) -> OverlayDisk:
    return OverlayDisk(
        DiskId(id_of(document, "id")),
        text(document, "label"),
        integer(document, "size"),
        digest_of(document, "root"),
        file_name(document, "stem"),
        optional(document, "offset", integer),
    )
