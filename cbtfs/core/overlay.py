"""The record of an overlay, `overlay.json` in its directory: a sealed JSON document."""

import re
from dataclasses import asdict, dataclass
from typing import Final

from cbtfs.core.fields import (
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

OVERLAY_FORMAT: Final = 1
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
    """Maximum size of the image of a disk in bytes; None: no limit."""
    disks: tuple[OverlayDisk, ...]


def encode_overlay(overlay: Overlay) -> bytes:
    document = asdict(overlay)
    for disk in document["disks"]:
        disk["root"] = disk["root"].hex()
    return seal({"format": OVERLAY_FORMAT, **document})


def decode_overlay(data: bytes) -> Overlay:
    """Return the record in a sealed file; ValueError with the reason if it is invalid."""
    document = unseal(data)
    version = integer(document, "format")
    if version != OVERLAY_FORMAT:
        raise ValueError(f"overlay format {version}")
    name = text(document, "name")
    if not is_overlay_name(name):
        raise ValueError("member 'name' is not the name of an overlay")
    return Overlay(
        PinId(id_of(document, "id")),
        name,
        id_of(document, "repository"),
        PointId(id_of(document, "point")),
        text(document, "vm"),
        moment(document, "created"),
        optional(document, "limit", integer),
        tuple(_disk_of(disk) for disk in items(document, "disks")),
    )


def _disk_of(document: Document) -> OverlayDisk:
    return OverlayDisk(
        DiskId(id_of(document, "id")),
        text(document, "label"),
        integer(document, "size"),
        digest_of(document, "root"),
        file_name(document, "stem"),
    )
