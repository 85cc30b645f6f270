"""Paths of the volumes of a guest in its tree of files."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cbtfs.files.fstab import Mount, parse_fstab
from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import Kind
from cbtfs.volumes.gpt import find_gpt
from cbtfs.volumes.mbr import find_mbr
from cbtfs.volumes.slices import NamedDisk
from cbtfs.volumes.source import Source
from cbtfs.volumes.table import PartitionTable

_FILE_SYSTEMS: Final = frozenset(
    {Kind.EXT2, Kind.EXT3, Kind.EXT4, Kind.XFS, Kind.BTRFS, Kind.NTFS, Kind.REFS}
    | {Kind.FAT12, Kind.FAT16, Kind.FAT32, Kind.EXFAT}
)
_WINDOWS: Final = frozenset(
    {Kind.NTFS, Kind.REFS, Kind.FAT12, Kind.FAT16, Kind.FAT32, Kind.EXFAT, Kind.BITLOCKER}
)
_WITHOUT_LETTER: Final = frozenset(
    {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",  # EFI system partition
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac",  # Windows recovery
        "e3c9e316-0b5c-4db8-817d-f92df00215ae",  # reserved by Microsoft
    }
)
"""Types of GPT partitions to which Windows gives no drive letter."""
_LETTERS: Final = "DEFGHIJKLMNOPQRSTUVWXYZ"
_TAGS: Final = {
    "by-uuid": "UUID",
    "by-label": "LABEL",
    "by-partuuid": "PARTUUID",
    "by-partlabel": "PARTLABEL",
}
_UDEV_ESCAPE: Final = re.compile(r"\\x([0-9a-fA-F]{2})")
_DISK: Final = re.compile(r"(?:sd|vd|hd|xvd)([a-z]{1,2})(\d{0,4})")
_NVME: Final = re.compile(r"nvme(\d{1,3})n(\d{1,3})(?:p(\d{1,4}))?")
_DEFAULT_SUBVOLUMES: Final = frozenset({"", "/", "5"})


@dataclass(frozen=True, slots=True)
class Identity:
    """The names by which a guest knows a volume."""

    name: str
    """As the mount names it below `slices`, without its suffix: "root.p1", "vg0/data"."""
    kind: Kind
    uuid: str = ""
    label: str = ""
    partition_uuid: str = ""
    partition_label: str = ""
    partition_type: str = ""
    """Type of a GPT partition, in small letters."""
    disk: int | None = None
    """Index of its disk in the point; None for a logical volume."""
    partition: int = 0
    """Number of the partition; 0 for a whole disk."""


@dataclass(frozen=True, slots=True)
class Place:
    """A volume in the tree of files."""

    volume: str
    subvolume: str = ""
    """Path of the root within a btrfs; empty for its default."""


@dataclass(slots=True)
class Placement:
    """The volumes of a guest by the path where it mounts them."""

    places: dict[str, Place] = field(default_factory=dict)
    unplaced: tuple[str, ...] = ()
    """Names of other volumes with files, which only a choice by name shows."""
    notes: list[str] = field(default_factory=list)
    """Facts that a user should know, one phrase each."""


def place(
    volumes: Sequence[Identity], fstabs: Mapping[str, str], windows: Collection[str] = ()
) -> Placement:
    """Place the volumes as the guest mounts them.

    *fstabs*: text of `/etc/fstab` by the name of its volume. *windows*: names of volumes that have
    a directory `Windows`; the first is `/C`, and other volumes of Windows follow from `/D` on in
    their order, because the letters that the guest gives them are not known. Without either, a
    single file system is `/`, and several are directories with the names of their volumes.
    """
    placement = Placement()
    if fstabs:
        _place_by_fstab(placement, volumes, fstabs)
    elif windows:
        _place_letters(placement, volumes, windows)
    else:
        names = [volume.name for volume in volumes if volume.kind in _FILE_SYSTEMS]
        paths = ["/"] if len(names) == 1 else [f"/{name}" for name in names]
        placement.places.update(
            (path, Place(name)) for path, name in zip(paths, names, strict=True)
        )
    placed = {shown.volume for shown in placement.places.values()}
    others = (volume for volume in volumes if volume.kind in _FILE_SYSTEMS)
    placement.unplaced = tuple(volume.name for volume in others if volume.name not in placed)
    return placement


def _place_by_fstab(
    placement: Placement, volumes: Sequence[Identity], fstabs: Mapping[str, str]
) -> None:
    """Place the volumes by the first `fstab` that names its own volume as the root."""
    candidates = [volume.name for volume in volumes if volume.name in fstabs]
    tables = {name: _resolved(volumes, parse_fstab(fstabs[name])) for name in candidates}
    roots = [name for name in candidates if _is_own_root(name, tables[name].places)]
    root = (roots or candidates)[0]
    if len(candidates) > 1:
        others = ", ".join(name for name in candidates if name != root)
        placement.notes.append(f"the root is on {root}; other volumes with /etc/fstab: {others}")
    elif not roots:
        placement.notes.append(f"/etc/fstab of {root} has another volume as the root")
    table = tables[root]
    subvolume = table.places["/"].subvolume if root in roots and "/" in table.places else ""
    placement.places = {"/": Place(root, subvolume)}
    placement.places.update((path, at) for path, at in table.places.items() if path != "/")
    placement.notes += table.notes


def _is_own_root(name: str, places: Mapping[str, Place]) -> bool:
    return places.get("/", Place(name)).volume == name


def _resolved(volumes: Sequence[Identity], mounts: Iterable[Mount]) -> Placement:
    """Return the places of an `fstab`; of two mounts on one path, the later one is visible."""
    result = Placement()
    for mount in mounts:
        found = _named(volumes, mount.source)
        if not found:
            result.notes.append(f"{mount.path}: no volume of this point is {mount.source}")
            continue
        if len(found) > 1:
            names = ", ".join(volume.name for volume in found)
            result.notes.append(f"{mount.path}: {mount.source} names several volumes: {names}")
        subvolume = "" if mount.subvolume in _DEFAULT_SUBVOLUMES else mount.subvolume
        result.places[mount.path] = Place(found[0].name, subvolume)
    return result


def _named(volumes: Sequence[Identity], source: str) -> list[Identity]:
    """Return the volumes that the first field of a line means."""
    tag, equals, value = source.partition("=")
    if equals and not tag.startswith("/"):
        return _tagged(volumes, tag.upper(), value)
    path = re.sub("/+", "/", source).removeprefix("/dev/")
    folder, _, name = path.rpartition("/")
    if folder.startswith("disk/") and folder[5:] in _TAGS:
        name = _UDEV_ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
        return _tagged(volumes, _TAGS[folder[5:]], name)
    if folder == "mapper":
        return [volume for volume in volumes if _mapped(volume) == name]
    if folder:
        return [volume for volume in volumes if volume.disk is None and volume.name == path]
    return _on_disk(volumes, path)


def _tagged(volumes: Sequence[Identity], tag: str, value: str) -> list[Identity]:
    if not value:
        return []
    if tag == "LABEL":
        return [volume for volume in volumes if volume.label == value]
    if tag == "PARTLABEL":
        return [volume for volume in volumes if volume.partition_label == value]
    if tag == "UUID":
        return [volume for volume in volumes if volume.uuid.lower() == value.lower()]
    if tag == "PARTUUID":
        return [volume for volume in volumes if volume.partition_uuid.lower() == value.lower()]
    return []


def _mapped(volume: Identity) -> str | None:
    """Return the name of a logical volume in `/dev/mapper`."""
    group, slash, name = volume.name.partition("/")
    if volume.disk is not None or not slash:
        return None
    return f"{group.replace('-', '--')}-{name.replace('-', '--')}"


def _on_disk(volumes: Sequence[Identity], name: str) -> list[Identity]:
    """Return the partition with a name of Linux, if its disks have the order of the point."""
    if match := _DISK.fullmatch(name):
        disk = 0
        for letter in match[1]:
            disk = disk * 26 + ord(letter) - ord("a") + 1
        disk, partition = disk - 1, int(match[2] or 0)
    elif match := _NVME.fullmatch(name):
        # One controller with a namespace for each disk, or a controller for each disk.
        disk, partition = int(match[1]) + int(match[2]) - 1, int(match[3] or 0)
    else:
        return []
    return [volume for volume in volumes if (volume.disk, volume.partition) == (disk, partition)]


def _place_letters(
    placement: Placement, volumes: Sequence[Identity], windows: Collection[str]
) -> None:
    system = next((volume.name for volume in volumes if volume.name in windows), None)
    if system is not None:
        placement.places["/C"] = Place(system)
    others = [
        volume.name
        for volume in volumes
        if volume.kind in _WINDOWS
        and volume.name != system
        and volume.partition_type not in _WITHOUT_LETTER
    ]
    for letter, name in zip(_LETTERS, others, strict=False):
        placement.places[f"/{letter}"] = Place(name)
    if others:
        placement.notes.append("drive letters behind C are in the order of the volumes")


def identities(volumes: Iterable[tuple[str, Source]], disks: Sequence[NamedDisk]) -> list[Identity]:
    """Return the identities of the volumes of a point, by name and content.

    Raises:
        CbtfsError: a volume or a partition table cannot be read.
    """
    tables = {
        disk.name: (disk.number, find_gpt(disk.source) or find_mbr(disk.source)) for disk in disks
    }
    return [_identity(name, source, tables) for name, source in volumes]


def _identity(
    name: str, source: Source, tables: Mapping[str, tuple[int, PartitionTable | None]]
) -> Identity:
    found = probe(source)
    names = (found.kind, found.uuid, found.label)
    if name in tables:
        return Identity(name, *names, disk=tables[name][0])
    disk, _, number = name.rpartition(".p")
    index, table = tables.get(disk, (None, None))
    for partition in table.partitions if table is not None else ():
        if str(partition.number) == number:
            own = (partition.uuid, partition.label, partition.kind)
            return Identity(name, *names, *own, disk=index, partition=partition.number)
    return Identity(name, *names)
