"""A volume group: its physical volumes and logical volumes, from its metadata text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cbtfs.volumes.lvm.text import (
    Section,
    TextInvalid,
    integer,
    parse_text,
    section,
    string,
    strings,
    uuid,
)

_SECTOR: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}\Z", re.ASCII)
_LINEAR: Final = "striped"
"""The segment type of striped volumes, and with one stripe of linear ones."""
_TYPES: Final = {
    "thin-pool": "a thin pool",
    "thin": "a thin volume",
    "cache": "a cached volume",
    "cache-pool": "a cache pool",
    "writecache": "a cached volume",
    "mirror": "a mirror",
    "vdo": "a VDO volume",
    "vdo-pool": "a VDO pool",
    "integrity": "a volume with integrity data",
    "snapshot": "a snapshot",
}
_MAX_VOLUMES: Final = 1024
_MAX_SEGMENTS: Final = 1 << 16
_MAX_SECTORS: Final = 1 << 55
"""2^64 bytes; no disk is as large."""


class Unsupported(ValueError):
    """Raised if a volume is not a linear or striped one; the text is the reason."""


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A physical volume as its group records it."""

    uuid: str
    """32 characters, without dashes."""
    device: str
    """Its name in the guest when the metadata was written."""
    start: int
    """Offset of its first extent in bytes."""
    extents: int
    is_missing: bool


@dataclass(frozen=True, slots=True)
class Stripe:
    """Consecutive extents of a physical volume."""

    volume: PhysicalVolume
    extent: int


@dataclass(frozen=True, slots=True)
class VolumeSegment:
    """Consecutive extents of a logical volume."""

    start: int
    count: int
    stripes: tuple[Stripe, ...]
    stripe_bytes: int
    """0 if there is one stripe."""


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A visible logical volume. Without segments, *reason* tells why it is not supported."""

    name: str
    segments: tuple[VolumeSegment, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """A volume group at the time when its metadata was written."""

    name: str
    uuid: str
    sequence: int
    extent_bytes: int
    volumes: tuple[LogicalVolume, ...]


def parse_group(text: str) -> VolumeGroup:
    """Return the volume group of a metadata text.

    Raises:
        TextInvalid: the text is not the metadata of a group.
    """
    name, body = _group_section(parse_text(text))
    extent_bytes = integer(body, "extent_size") * _SECTOR
    if not 0 < extent_bytes <= 1 << 40:
        raise TextInvalid(f"extents of {extent_bytes} bytes")
    physical = {
        alias: _physical(fields)
        for alias, fields in section(body, "physical_volumes").items()
        if isinstance(fields, Mapping)
    }
    return VolumeGroup(
        name,
        uuid(body),
        integer(body, "seqno"),
        extent_bytes,
        tuple(_volumes(section(body, "logical_volumes"), physical)),
    )


def _group_section(document: Section) -> tuple[str, Section]:
    """Return name and content of the only section with extents: the group itself."""
    for name, value in document.items():
        if isinstance(value, Mapping) and "extent_size" in value:
            if not is_name(name):
                raise TextInvalid(f"invalid name of a volume group: {name!r}")
            return name, value
    raise TextInvalid("no volume group")


def is_name(name: str) -> bool:
    """Return True if LVM2 accepts *name* for groups and volumes."""
    return _NAME.match(name) is not None and name not in (".", "..")


def _physical(fields: Section) -> PhysicalVolume:
    device = fields.get("device")
    return PhysicalVolume(
        uuid=uuid(fields),
        device=device if isinstance(device, str) else "unknown",
        start=_bounded(integer(fields, "pe_start")) * _SECTOR,
        extents=_bounded(integer(fields, "pe_count")),
        is_missing="MISSING" in strings(fields, "flags"),
    )


def _bounded(number: int) -> int:
    if number > _MAX_SECTORS:
        raise TextInvalid(f"{number} is too large")
    return number


def _volumes(of: Section, physical: Mapping[str, PhysicalVolume]) -> Iterator[LogicalVolume]:
    """Yield the volumes that `lvs` shows, in alphabetical order.

    The volume with the blocks of a snapshot lacks the flag VISIBLE, and the volume that relates it
    to its origin has it.
    """
    bodies = {name: body for name, body in sorted(of.items()) if isinstance(body, Mapping)}
    reasons = _snapshot_reasons(bodies)
    visible = [
        name
        for name, body in bodies.items()
        if not _is_relation(body) and (name in reasons or "VISIBLE" in strings(body, "status"))
    ]
    for name in visible[:_MAX_VOLUMES]:
        body = bodies[name]
        try:
            if not is_name(name):
                raise Unsupported("its name is invalid")
            if name in reasons:
                raise Unsupported(reasons[name])
            yield LogicalVolume(name, tuple(_segments(body, physical)))
        except (Unsupported, TextInvalid) as exc:
            yield LogicalVolume(name, reason=str(exc))
    if len(visible) > _MAX_VOLUMES:
        yield LogicalVolume(visible[_MAX_VOLUMES], reason=f"only {_MAX_VOLUMES} volumes are shown")


def _is_relation(body: Section) -> bool:
    """Return True for a volume that relates a snapshot to its origin."""
    return any(fields.get("type") == "snapshot" for _, fields in _segment_sections(body))


def _snapshot_reasons(bodies: Mapping[str, Section]) -> dict[str, str]:
    """Return why the volumes of classic snapshots are not what their segments contain.

    A volume of type `snapshot` relates two others: the origin and the changed blocks.
    """
    reasons = {}
    for body in bodies.values():
        for _, fields in _segment_sections(body):
            if fields.get("type") != "snapshot":
                continue
            for key in ("cow_store", "merging_store"):
                if isinstance(store := fields.get(key), str):
                    reasons[store] = "a snapshot: it needs its origin"
            origin = fields.get("origin")
            if "merging_store" in fields and isinstance(origin, str):
                reasons[origin] = "a snapshot is being merged into it"
    return reasons


def _segment_sections(body: Section) -> Iterator[tuple[str, Section]]:
    for name, fields in body.items():
        if name.startswith("segment") and isinstance(fields, Mapping):
            yield name, fields


def _segments(body: Section, physical: Mapping[str, PhysicalVolume]) -> Iterator[VolumeSegment]:
    """Yield the segments in order.

    Raises:
        Unsupported: a segment has another type.
        TextInvalid: the segments do not cover the volume.
    """
    sections = [fields for _, fields in _segment_sections(body)]
    count = integer(body, "segment_count")
    if not 0 < count == len(sections) <= _MAX_SEGMENTS:
        raise TextInvalid(f"{len(sections)} segments, {count} expected")
    end = 0
    for fields in sorted(sections, key=lambda fields: integer(fields, "start_extent")):
        segment = _segment(fields, physical)
        if segment.start != end:
            raise TextInvalid(f"no segment at extent {end}")
        end += segment.count
        yield segment


def _segment(fields: Section, physical: Mapping[str, PhysicalVolume]) -> VolumeSegment:
    kind = string(fields, "type")
    if kind != _LINEAR:
        described = "a RAID volume" if kind.startswith("raid") else _TYPES.get(kind)
        raise Unsupported(described or f"segments of type {kind!r}")
    count = _bounded(integer(fields, "extent_count"))
    stripe_count = integer(fields, "stripe_count")
    stripes = list(_stripes(fields.get("stripes"), physical))
    stripe_bytes = integer(fields, "stripe_size", 0) * _SECTOR if stripe_count > 1 else 0
    if not 0 < stripe_count == len(stripes) or count <= 0 or count % stripe_count:
        raise TextInvalid(f"{count} extents in {len(stripes)} of {stripe_count} stripes")
    if stripe_count > 1 and not 0 < stripe_bytes <= 1 << 40:
        raise TextInvalid(f"stripes of {stripe_bytes} bytes")
    for stripe in stripes:
        if stripe.extent + count // stripe_count > stripe.volume.extents:
            raise TextInvalid("a segment ends beyond its physical volume")
    return VolumeSegment(integer(fields, "start_extent"), count, tuple(stripes), stripe_bytes)


def _stripes(value: object, physical: Mapping[str, PhysicalVolume]) -> Iterator[Stripe]:
    """Yield the stripes in an array of names and first extents."""
    if not isinstance(value, list) or len(value) % 2:
        raise TextInvalid("a segment has no stripes")
    for name, extent in zip(value[::2], value[1::2], strict=True):
        if not isinstance(name, str) or not isinstance(extent, int) or extent < 0:
            raise TextInvalid("a segment has an invalid stripe")
        if name not in physical:
            raise Unsupported(f"it uses the volume {name!r}, not only physical volumes")
        yield Stripe(physical[name], extent)
