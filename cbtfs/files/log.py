"""List the versions of a file at the points of a VM; most points are not opened."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError, PointNotFound
from cbtfs.files.history import Part, Sighting, Version, versions
from cbtfs.files.jbd2.refusal import ReplayRefused
from cbtfs.files.jbd2.superblock import SUPERBLOCK, SUPERBLOCK_BYTES, Superblock, parse_superblock
from cbtfs.files.parsing import open_file_system
from cbtfs.files.protocol import MAX_READ_BYTES, Entry, FileSystem, GuestFileMissing, Kind
from cbtfs.files.volume_at import VolumeAt
from cbtfs.files.volumes import volumes_of
from cbtfs.reader import Reader
from cbtfs.volumes.source import Source, read_bytes

_NOWHERE: Final = Extent(0, 1)
"""Structure of a file on a volume that a point lacks."""
_FACTS: Final = ((0, 12), (0x14, 24), (0x38, 8), (0x4C, 28), (0xFE, 2), (0x150, 4))
"""Offset and length of the fields of an ext superblock that decide how files are found."""
_TABLE_FIELDS: Final = ((8, 4), (0x28, 4))
"""Offset and length of the place of the inode table in a group descriptor."""
_VOLATILE: Final = ((8, 4), (0x7C, 2), (0x82, 2), (0x8C, 4))
"""Offset and length in an inode of the time of the last access, and of checksums."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file at one point, apart from its content and the time of the last access."""

    entry: Entry | None
    """None if it cannot be read."""
    target: str = ""
    """Text of a link."""
    digest: bytes = b""
    """SHA-256 of the content that is within the structures of the file system."""
    failure: str = ""
    """The reason why it cannot be read."""


def file_versions(
    reader: Reader, manifests: Sequence[Manifest], volume: str, path: str
) -> Iterator[Version]:
    """Yield the versions of a file over points, oldest first; numbers count the points.

    The state of a version is a FileState, or None if the file does not exist. *path* is that in the
    file system of *volume*; links are not followed. The points must be leased.

    Raises:
        ChunkMissing, DataCorrupt: a block map or a partition table is damaged.
    """
    yield from versions(_Points(reader, manifests, volume, path))


class _Points:
    """One volume at several points."""

    def __init__(
        self, reader: Reader, manifests: Sequence[Manifest], volume: str, path: str
    ) -> None:
        self._reader = reader
        self._manifests = manifests
        self._volume = volume
        self._path = path
        self._known: dict[int, VolumeAt | None] = {}

    def __len__(self) -> int:
        return len(self._manifests)

    def _at(self, number: int) -> "VolumeAt | None":
        """Return the volume at a point; only two points are kept."""
        if number not in self._known:
            for other in [other for other in self._known if abs(other - number) > 1]:
                del self._known[other]
            self._known[number] = None
            with suppress(PointNotFound):
                found = volumes_of(self._reader, self._manifests[number]).named(self._volume)
                disks = [self._reader.disk(record) for record in self._manifests[number].disks]
                self._known[number] = VolumeAt(found, disks)
        return self._known[number]

    def look(self, number: int) -> Sighting:
        volume = self._at(number)
        if volume is None:
            return Sighting(None, (_NOWHERE,))
        return _look(volume, self._path)

    def differing(self, left: int, right: int, extent: Extent) -> Iterator[Extent]:
        ours, theirs = self._at(left), self._at(right)
        if ours is not None and theirs is not None:
            yield from ours.changed(theirs, extent)
        elif ours is not theirs:
            yield extent

    def read(self, number: int, extent: Extent) -> bytes:
        volume = self._at(number)
        return b"" if volume is None else read_bytes(volume.source, extent.start, extent.length)


def _look(volume: VolumeAt, path: str) -> Sighting:
    """Open the file system in a new parser, and return the file with the bytes that it read."""
    source = volume.source
    whole = (Extent(0, max(source.size, 1)),)
    try:
        file_system = open_file_system(replace(volume.volume, source=source))
    except CbtfsError as exc:
        return Sighting(FileState(None, failure=str(exc)), whole)
    try:
        file_system.reads()
        state, parts = _state(file_system, path)
        return Sighting(state, tuple(_structure(source, file_system.reads())), parts)
    except GuestFileMissing:
        return Sighting(None, tuple(_structure(source, file_system.reads())))
    except CbtfsError as exc:
        return Sighting(FileState(None, failure=str(exc)), whole)
    finally:
        file_system.close()


def _structure(source: Source, reads: Sequence[Extent]) -> Iterator[Extent]:
    """Yield the bytes that decide what the file is: of the superblock, and of the parser's reads.

    Of file systems other than ext, it is not known what the parser keeps from its start.
    """
    data, superblock = read_bytes(source, SUPERBLOCK, SUPERBLOCK_BYTES), None
    with suppress(ReplayRefused):
        superblock = parse_superblock(data, source.size)
    if superblock is None:
        yield Extent(0, source.size)
        return
    for at, length in _FACTS:
        yield Extent(SUPERBLOCK + at, length)
    for read in reads:
        yield from _fields(superblock, read)


def _fields(superblock: Superblock, read: Extent) -> Iterator[Extent]:
    """Yield the parts of a read without counts, checksums and times of access."""
    if read.length == superblock.descriptor_bytes:
        for at, length in _TABLE_FIELDS:
            if at + length <= read.length:
                yield Extent(read.start + at, length)
    elif read.length == superblock.inode_bytes < superblock.block_bytes:
        start = read.start
        for at, length in _VOLATILE:
            if at + length <= read.length:
                yield Extent(start, read.start + at - start)
                start = read.start + at + length
        yield Extent(start, read.end - start)
    else:
        yield read


def _state(file_system: FileSystem, path: str) -> tuple[FileState, tuple[Part, ...]]:
    entry = replace(file_system.stat(path), accessed_ns=0)
    target = file_system.target(path) if entry.kind is Kind.LINK else ""
    parts, digest = [], hashlib.sha256()
    if entry.kind is Kind.FILE and entry.defect is None:
        for extent in file_system.extents(path):
            if extent.offset is not None:
                parts.append(Part(extent.start, extent.length, extent.offset))
                continue
            for at in range(extent.start, extent.end, MAX_READ_BYTES):
                length = min(MAX_READ_BYTES, extent.end - at)
                digest.update(at.to_bytes(8, "big") + file_system.read(path, at, length))
    return FileState(entry, target, digest.digest()), tuple(parts)
