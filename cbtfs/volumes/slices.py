"""All slices of the disks of one point: partitions, and LVM2 volumes that may span disks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cbtfs.core.names import encode_name, unique_name
from cbtfs.errors import CbtfsError
from cbtfs.volumes.gpt import find_gpt
from cbtfs.volumes.lvm.group import (
    LogicalVolume,
    PhysicalVolume,
    Unsupported,
    VolumeGroup,
    parse_group,
)
from cbtfs.volumes.lvm.label import find_label
from cbtfs.volumes.lvm.text import TextInvalid
from cbtfs.volumes.mbr import find_mbr
from cbtfs.volumes.segment import Area, Segment, Slice
from cbtfs.volumes.source import Part, Source
from cbtfs.volumes.table import PartitionTable

SUFFIX: Final = ".raw"
MAX_SLICES: Final = 2000
"""Slices of one point; more are reported as omitted."""
_MAX_SEGMENTS: Final = 1 << 16
"""Segments of all slices of a point."""
_MAX_GROUPS: Final = 256
_MAX_READ_BYTES: Final = 64 << 20
"""Metadata texts of all physical volumes; those of one group are equal."""
_MAX_PARSED_BYTES: Final = 8 << 20
"""Different metadata texts, which are parsed at 1 to 2 MB/s."""
_UUID_GROUPS: Final = (0, 6, 10, 14, 18, 22, 26, 32)
"""Where LVM puts the dashes."""


@dataclass(frozen=True, slots=True)
class Omitted:
    """A partition or volume that is not shown, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Slices:
    """The slices of a point in a fixed order, and what is not shown."""

    shown: tuple[Slice, ...] = ()
    omitted: tuple[Omitted, ...] = ()
    failure: CbtfsError | None = None
    """The reason if it is unknown which logical volumes there are: then *shown* has none.

    Partitions come first, so each keeps its position when the cause is repaired.
    """


@dataclass(frozen=True, slots=True)
class NamedDisk:
    """A disk of a point."""

    number: int
    """Index of the disk in the point."""
    name: str
    """Its file name in the directory of the point, without the suffix."""
    source: Source


@dataclass(frozen=True, slots=True)
class _Place:
    """Location of a physical volume: a disk or a partition."""

    disk: int
    start: int
    size: int


@dataclass(slots=True)
class _Search:
    """Results so far."""

    slices: list[Slice] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)
    places: dict[str, _Place] = field(default_factory=dict)
    """Physical volumes by UUID."""
    ambiguous: set[str] = field(default_factory=set)
    """UUIDs that two physical volumes have, for example a disk and its clone."""
    groups: dict[str, VolumeGroup] = field(default_factory=dict)
    """Volume groups by UUID, from their newest text."""
    segments: int = 0
    read_bytes: int = 0
    parsed_bytes: int = 0
    parsed: set[str] = field(default_factory=set)
    """Metadata texts that were parsed."""

    def omit(self, name: str, reason: str) -> None:
        self.omitted.append(Omitted(name, reason))

    def add(self, path: tuple[str, ...], segments: tuple[Segment, ...]) -> None:
        if len(self.slices) == MAX_SLICES or self.segments + len(segments) > _MAX_SEGMENTS:
            self.omit("/".join(path), "the point has too many slices")
            return
        self.segments += len(segments)
        self.slices.append(Slice(path, segments))


def find_slices(disks: Sequence[NamedDisk]) -> Slices:
    """Return the slices of the *disks* of one point.

    Raises:
        CbtfsError: a partition table cannot be read.
    """
    search = _Search()
    candidates = [candidate for disk in disks for candidate in _search_disk(search, disk)]
    for candidate in candidates:
        try:
            _search_volume(search, candidate)
        except CbtfsError as exc:
            search.omit(candidate.name, f"its LVM label or metadata cannot be read: {exc}")
            return Slices(tuple(search.slices), tuple(search.omitted), exc)
    taken = {slice_.path[0] for slice_ in search.slices}
    for group in sorted(search.groups.values(), key=lambda group: (group.name, group.uuid)):
        try:
            directory = unique_name(encode_name(group.name), taken, group.uuid)
        except ValueError:
            search.omit(group.name, "other groups have taken every name for it")
            continue
        taken.add(directory)
        for volume in group.volumes:
            _add_volume(search, group, directory, volume)
    return Slices(tuple(search.slices), tuple(search.omitted))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A disk or partition that can be a physical volume."""

    name: str
    source: Source
    place: _Place


def _search_disk(search: _Search, disk: NamedDisk) -> list[_Candidate]:
    """Add the partitions of a disk. Return them, or the disk if it has no partition table."""
    source = disk.source
    table = find_gpt(source) or find_mbr(source)
    if table is None:
        return [_Candidate(disk.name, source, _Place(disk.number, 0, source.size))]
    if table.note is not None:
        search.omit(disk.name, table.note)
    for skipped in table.skipped:
        search.omit(f"{disk.name}.p{skipped.number}", skipped.reason)
    return list(_add_partitions(search, disk, table))


def _add_partitions(
    search: _Search, disk: NamedDisk, table: PartitionTable
) -> Iterator[_Candidate]:
    for partition in table.partitions:
        name = f"{disk.name}.p{partition.number}"
        start, length = partition.extent.start, partition.extent.length
        area = Area(disk.number, start)
        search.add((name + SUFFIX,), (Segment(0, length, (area,), length),))
        place = _Place(disk.number, start, length)
        yield _Candidate(name, Part(disk.source, start, length), place)


def _search_volume(search: _Search, candidate: _Candidate) -> None:
    """Look for the label of a physical volume, and for the metadata of its group."""
    name = candidate.name
    label = find_label(candidate.source, _MAX_READ_BYTES - search.read_bytes)
    if label is None:
        return
    for defect in label.defects:
        search.omit(name, f"LVM physical volume: {defect}")
    if label.uuid in search.places:
        search.ambiguous.add(label.uuid)
    search.places[label.uuid] = candidate.place
    search.read_bytes += sum(map(len, label.texts))
    for text in label.texts:
        if text in search.parsed:
            continue
        search.parsed_bytes += len(text)
        if search.parsed_bytes > _MAX_PARSED_BYTES:
            search.omit(name, "LVM metadata: the point has too much of it")
            continue
        search.parsed.add(text)
        try:
            group = parse_group(text)
        except TextInvalid as exc:
            search.omit(name, f"LVM metadata: {exc}")
            continue
        known = search.groups.get(group.uuid)
        if known is None and len(search.groups) == _MAX_GROUPS:
            search.omit(group.name, f"only {_MAX_GROUPS} volume groups are shown")
        elif known is None or known.sequence < group.sequence:
            search.groups[group.uuid] = group


def _add_volume(search: _Search, group: VolumeGroup, directory: str, volume: LogicalVolume) -> None:
    try:
        if volume.reason is not None:
            raise Unsupported(volume.reason)
        segments = tuple(_segments(search, group, volume))
    except Unsupported as exc:
        search.omit(f"{directory}/{encode_name(volume.name)}", str(exc))
        return
    search.add((directory, encode_name(volume.name) + SUFFIX), segments)


def _segments(search: _Search, group: VolumeGroup, volume: LogicalVolume) -> Iterator[Segment]:
    unit = group.extent_bytes
    for segment in volume.segments:
        length = segment.count * unit
        bytes_on_each = length // len(segment.stripes)
        stripe_bytes = segment.stripe_bytes or length
        if bytes_on_each % stripe_bytes and len(segment.stripes) > 1:
            raise Unsupported("its stripes do not fill its extents")
        areas = []
        for stripe in segment.stripes:
            place = _place_of(search, stripe.volume)
            start = stripe.volume.start + stripe.extent * unit
            if start + bytes_on_each > place.size:
                raise Unsupported(f"{_named(stripe.volume)} is larger than its disk")
            areas.append(Area(place.disk, place.start + start))
        yield Segment(segment.start * unit, length, tuple(areas), stripe_bytes)


def _place_of(search: _Search, volume: PhysicalVolume) -> _Place:
    place = search.places.get(volume.uuid)
    if place is None or volume.is_missing:
        raise Unsupported(f"{_named(volume)} is missing in this point")
    if volume.uuid in search.ambiguous:
        raise Unsupported(f"{_named(volume)} exists twice: a disk of the VM is a clone of another")
    return place


def _named(volume: PhysicalVolume) -> str:
    uuid = "-".join(volume.uuid[start:end] for start, end in pairwise(_UUID_GROUPS))
    return f"physical volume {uuid} ({encode_name(volume.device[:64])} in the guest)"
