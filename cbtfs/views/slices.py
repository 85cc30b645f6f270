"""The partitions and logical volumes of one point."""

from cbtfs.core.filenames import RAW, disk_names
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Reader
from cbtfs.volumes.segment import Slice
from cbtfs.volumes.slices import NamedDisk, Slices, find_slices


def slices_of(reader: Reader, manifest: Manifest) -> Slices:
    """Return the slices of a point. Disks are counted as in the manifest.

    Raises:
        ChunkMissing: a part of a disk that can have partition tables or LVM metadata is missing.
        DataCorrupt: such a part is corrupt.
    """
    names = disk_names(manifest.disks)
    disks = [
        NamedDisk(number, name.removesuffix(RAW), reader.disk(disk))
        for number, (disk, name) in enumerate(zip(manifest.disks, names, strict=True))
        if disk.kind == "disk"
    ]
    try:
        return find_slices(disks)
    except (ChunkMissing, DataCorrupt) as exc:
        failure = ChunkMissing if isinstance(exc, ChunkMissing) else DataCorrupt
        raise failure(f"cannot find the slices of point {manifest.point}: {exc}") from exc


def estimated_bytes(slice_: Slice, manifest: Manifest) -> int:
    """Return about how many bytes of a slice are data, from the density of its disks."""
    disks = [manifest.disks[number] for number in slice_.disks]
    size = sum(disk.size for disk in disks)
    return slice_.size * sum(disk.data_bytes for disk in disks) // size if size else 0
