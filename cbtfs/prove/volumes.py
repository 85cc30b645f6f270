"""Level 2: the partition tables and superblocks of a point, and the journals to replay."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cbtfs.core.filenames import RAW, SLICES, disk_names
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import State
from cbtfs.prove.part import Part, Refuted
from cbtfs.reader import Disk, Reader
from cbtfs.views.slices import slices_of
from cbtfs.volumes.gpt import find_gpt
from cbtfs.volumes.segment import Slice
from cbtfs.volumes.superblocks import FileSystem, find_file_system


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk without partitions, a partition or a logical volume, and its content."""

    name: str
    path: tuple[str, ...]
    """File in the mount, from the directory of the point."""
    size: int
    content: FileSystem | None


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The bytes of a slice."""

    slice: Slice
    disks: dict[int, Disk]

    @property
    def size(self) -> int:
        return self.slice.size

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length), fewer at the end."""
        return b"".join(
            bytes(self.disks[piece.disk].read(piece.offset, piece.length))
            for piece in self.slice.pieces(offset, length)
        )


@dataclass(frozen=True, slots=True)
class DiskSource:
    """The bytes of a disk."""

    disk: Disk
    size: int

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length), fewer at the end."""
        return self.disk.read(offset, length)


def examine(reader: Reader, manifest: Manifest) -> tuple[list[Volume], list[Part]]:
    """Return the volumes of a point, and a part for each and for each defect of a table.

    Raises:
        Refuted: a table or a superblock cannot be read.
    """
    try:
        return _examine(reader, manifest)
    except (ChunkMissing, DataCorrupt) as exc:
        raise Refuted(str(exc)) from exc


def _examine(reader: Reader, manifest: Manifest) -> tuple[list[Volume], list[Part]]:
    names = disk_names(manifest.disks)
    records = {
        number: (name, disk)
        for number, (name, disk) in enumerate(zip(names, manifest.disks, strict=True))
        if disk.kind == "disk"
    }
    slices = slices_of(reader, manifest)
    if slices.failure is not None:
        raise Refuted(f"the logical volumes are unknown: {slices.failure}")
    disks = {number: reader.disk(disk) for number, (_, disk) in records.items()}
    parts = list(_tables(reader, records))
    reported = {(part.name, part.text) for part in parts}
    parts += [
        Part(omitted.name, 2, "untested", omitted.reason)
        for omitted in slices.omitted
        if (omitted.name, omitted.reason) not in reported
    ]
    volumes = [
        Volume(
            "/".join(slice_.path).removesuffix(RAW),
            (SLICES, *slice_.path),
            slice_.size,
            _content(SliceSource(slice_, disks)),
        )
        for slice_ in slices.shown
    ]
    divided = {number for slice_ in slices.shown for number in slice_.disks}
    volumes += [
        Volume(
            name.removesuffix(RAW),
            (name,),
            disk.size,
            _content(DiskSource(disks[number], disk.size)),
        )
        for number, (name, disk) in records.items()
        if number not in divided
    ]
    return volumes, [*parts, *map(_part, volumes)]


def _content(source: SliceSource | DiskSource) -> FileSystem | None:
    """Return the content of a volume. The state of an XFS is in its log, not in its superblock."""
    content = find_file_system(source)
    if content is None or content.kind != "xfs" or content.problems:
        return content
    return replace(content, needs_replay=probe(source).state is State.PENDING)


def _tables(reader: Reader, records: dict[int, tuple[str, DiskRecord]]) -> Iterator[Part]:
    for name, disk in records.values():
        table = find_gpt(DiskSource(reader.disk(disk), disk.size))
        if table is not None and table.note is not None:
            yield Part(name.removesuffix(RAW), 2, "failed", table.note)


def _part(volume: Volume) -> Part:
    content = volume.content
    if content is None:
        return Part(volume.name, 2, "nothing", "unknown content")
    if content.problems:
        return Part(volume.name, 2, "failed", f"{content.kind}: {'; '.join(content.problems)}")
    if content.kind == "crypt":
        return Part(volume.name, 2, "untested", "encrypted")
    if content.is_opaque:
        return Part(volume.name, 2, "nothing", content.kind)
    journal = ", to be recovered" if content.needs_replay else ""
    return Part(volume.name, 2, "passed", content.kind + journal)
