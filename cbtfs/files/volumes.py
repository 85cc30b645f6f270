"""Volumes of a point that can have file systems: its slices, and disks without partitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from cbtfs.core.filenames import RAW, disk_names
from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.errors import PointNotFound
from cbtfs.reader import Disk, Reader
from cbtfs.views.slices import slices_of
from cbtfs.volumes.segment import Slice
from cbtfs.volumes.slices import Omitted
from cbtfs.volumes.source import Source


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The bytes of a slice."""

    slice: Slice
    disks: Sequence[Disk]
    """All disks of the point."""

    @property
    def size(self) -> int:
        return self.slice.size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length), fewer only at the end.

        Raises:
            ChunkMissing, DataCorrupt: a byte cannot be read.
        """
        pieces = list(self.slice.pieces(offset, length))
        if len(pieces) == 1:
            (piece,) = pieces
            return self.disks[piece.disk].read(piece.offset, piece.length)
        return b"".join(self.disks[p.disk].read(p.offset, p.length) for p in pieces)


@dataclass(frozen=True, slots=True)
class Nothing:
    """The content of a volume that only an appliance has."""

    size: int = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return no bytes."""
        return b""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that can have a file system."""

    name: str
    """As the mount names it below `slices`, without its suffix: "root.p1", "vg0/data", "root".

    A subvolume has it in brackets, as findmnt shows it: "root.p2[/home]".
    """
    source: Source
    device: str = ""
    """Name of the volume that has the subvolume; empty for a whole volume."""
    subvolume: str | None = None
    """Subvolume of a btrfs; empty for its top, None for the guest's default."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """The volumes of a point, and those that cannot be read, with the reasons."""

    shown: Sequence[Volume]
    omitted: Sequence[Omitted]

    def named(self, name: str) -> Volume:
        """Return the volume with that name.

        Raises:
            PointNotFound: no volume has it; the error lists the names.
        """
        for volume in self.shown:
            if volume.name == name:
                return volume
        names = [volume.name for volume in self.shown]
        reasons = [omitted.reason for omitted in self.omitted if omitted.name == name]
        reason = f": {reasons[0]}" if reasons else f"; it has {', '.join(names) or 'none'}"
        raise PointNotFound(f"no volume {printable(name)!r} in this point{reason}", names)


def volumes_of(reader: Reader, manifest: Manifest) -> Volumes:
    """Return the volumes of a point.

    Raises:
        ChunkMissing, DataCorrupt: a partition table, or metadata of LVM, cannot be read.
    """
    slices = slices_of(reader, manifest)
    if slices.failure is not None:
        raise slices.failure
    disks = [reader.disk(record) for record in manifest.disks]
    partitioned = {number for slice_ in slices.shown for number in slice_.disks}
    names = disk_names(manifest.disks)
    whole = [
        Volume(name.removesuffix(RAW), disk)
        for number, (name, disk) in enumerate(zip(names, disks, strict=True))
        if manifest.disks[number].kind == "disk" and number not in partitioned
    ]
    parts = [
        Volume("/".join(slice_.path).removesuffix(RAW), SliceSource(slice_, disks))
        for slice_ in slices.shown
    ]
    return Volumes([*whole, *parts], slices.omitted)
