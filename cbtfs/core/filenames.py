"""File names of disks and of their views in the directory of a point."""

from collections.abc import Sequence
from typing import Final

from cbtfs.core.manifest import DiskRecord
from cbtfs.core.names import encode_name, unique_name

VM_JSON: Final = "vm.json"
SLICES: Final = "slices"
GUEST_FILES: Final = "files"
"""Directory of a point in the mount that has the files of the guest."""
"""Directory of the partitions and logical volumes of a point; no listing shows it."""
VIEWS: Final = "as"
"""Directory of the disks in other formats; no listing shows it."""
RAW: Final = ".raw"
QCOW2: Final = ".qcow2"
VMDK: Final = ".vmdk"
SINCE: Final = ".since-"
"""Separates the name of a disk from the name of an earlier point in `as`."""


def disk_names(disks: Sequence[DiskRecord]) -> list[str]:
    """Return the unique file name of each disk and small file of a point."""
    taken = {VM_JSON, SLICES, VIEWS}
    stems: set[str] = set()
    names = []
    for disk in disks:
        name = encode_name(disk.label)
        if disk.kind == "disk":
            name = unique_name(name, stems, disk.id) + RAW
        else:
            name = unique_name(name, taken, disk.id)
        taken.add(name)
        if name.endswith(RAW):
            stems.add(name.removesuffix(RAW))
        names.append(name)
    return names


def converted_names(disks: Sequence[DiskRecord], suffix: str) -> list[str]:
    """Return the unique file names of the disks with the suffix of a format, and of small files.

    `root.raw` becomes `root.vmdk`, or `root.raw.vmdk` if a small file has the shorter name.
    """
    names = disk_names(disks)
    return [
        _converted(name, suffix, names) if disk.kind == "disk" else name
        for disk, name in zip(disks, names, strict=True)
    ]


def _converted(name: str, suffix: str, taken: Sequence[str]) -> str:
    short = f"{name.removesuffix(RAW)}.{suffix}"
    return f"{name}.{suffix}" if short in taken else short


def view_paths(disk: DiskRecord, name: str) -> list[str]:
    """Return the paths of the images of a disk with that file name, from the point's directory."""
    if disk.kind != "disk":
        return []
    stem = f"{VIEWS}/{name.removesuffix(RAW)}"
    has_descriptor = disk.size > 0 and '"' not in name
    return [stem + QCOW2, stem + VMDK] if has_descriptor else [stem + QCOW2]
