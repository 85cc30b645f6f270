"""List the versions of a file at the points of a VM; most points are not opened."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError, PointNotFound, UsageError
from cbtfs.files.engine_parse.engine import CALL_SECONDS
from cbtfs.files.engine_parse.processes import ParsersByKind
from cbtfs.files.engines import Engines, Opener
from cbtfs.files.history import Part, Sighting, Version, content_digest, versions
from cbtfs.files.jbd2.refusal import ReplayRefused
from cbtfs.files.jbd2.superblock import SUPERBLOCK, SUPERBLOCK_BYTES, Superblock, parse_superblock
from cbtfs.files.probe.find import probe
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    Entry,
    FileExtent,
    FileSystem,
    GuestFileMissing,
    Kind,
)
from cbtfs.files.volume_at import VolumeAt
from cbtfs.files.volumes import Nothing, Volume, Volumes, volumes_of
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
class FilePath:
    """The place of a file in the points of a VM."""

    volume: str
    """Name of a slice, or of a volume that only an appliance finds."""
    path: str
    """Path in the file system of the volume."""
    subvolume: str | None = ""
    """Subvolume of a btrfs; empty for its top, None for the guest's default."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file at one point, apart from its content and the time of the last access."""

    entry: Entry | None
    """None if it cannot be read."""
    target: str = ""
    """Text of a link."""
    failure: str = ""
    """The reason why it cannot be read."""
    engine: str = field(default="", compare=False)
    """Name of the engine that read it; empty if none can."""


def file_versions(
    reader: Reader,
    manifests: Sequence[Manifest],
    place: FilePath,
    engines: Engines = Engines(),  # noqa: B008 - it is frozen
) -> Iterator[Version]:
    """Yield the versions of a file over points, oldest first; numbers count the points.

    The state of a version is a FileState, or None if the file does not exist. Links are not
    followed. The points must be leased. Points that one parser reads share a fork server.

    Raises:
        ChunkMissing, DataCorrupt: a block map or a partition table is damaged.
        UsageError: the engine that the user wants needs a package that is missing.
    """
    if engines.servers is not None:
        yield from versions(_Points(reader, manifests, place, engines))
        return
    with closing(ParsersByKind()) as servers:
        yield from versions(_Points(reader, manifests, place, replace(engines, servers=servers)))


class _Points:
    """One volume at several points."""

    def __init__(
        self, reader: Reader, manifests: Sequence[Manifest], place: FilePath, engines: Engines
    ) -> None:
        self._reader = reader
        self._manifests = manifests
        self._place = place
        self._engines = engines
        self._known: dict[int, VolumeAt | None] = {}

    def __len__(self) -> int:
        return len(self._manifests)

    def _at(self, number: int) -> "VolumeAt | None":
        """Return the volume at a point; only two points are kept."""
        if number not in self._known:
            for other in [other for other in self._known if abs(other - number) > 1]:
                del self._known[other]
            manifest = self._manifests[number]
            volume = self._volume(volumes_of(self._reader, manifest))
            disks = [self._reader.disk(record) for record in manifest.disks]
            before = self._known.get(number - 1)
            self._known[number] = None if volume is None else VolumeAt(volume, disks, before)
        return self._known[number]

    def _volume(self, volumes: Volumes) -> Volume | None:
        """Return the volume among those of a point; one that is no slice has no bytes."""
        place = self._place
        try:
            volume = volumes.named(place.volume)
        except PointNotFound:
            kinds = (probe(volume.source).kind for volume in volumes.shown)
            if not self._engines.may_find_more(volumes, kinds):
                return None
            volume = Volume(place.volume, Nothing())
        return replace(volume, subvolume=place.subvolume)

    def look(self, number: int) -> Sighting:
        volume = self._at(number)
        if volume is None:
            return Sighting(None, (_NOWHERE,))
        opener = Opener(self._engines, self._manifests[number], CALL_SECONDS)
        with closing(opener):
            return _look(volume, opener, self._place.path)

    def differing(self, left: int, right: int, extent: Extent) -> Iterator[Extent]:
        ours, theirs = self._at(left), self._at(right)
        if ours is not None and theirs is not None:
            yield from ours.changed(theirs, extent)
        elif ours is not theirs:
            yield extent

    def read(self, number: int, extent: Extent) -> bytes:
        volume = self._at(number)
        if volume is None:
            return b""
        if not volume.is_slice:
            # Its bytes are not known, so they count as equal only if those of all disks are.
            return "\0".join(str(disk.record.root) for disk in volume.disks).encode()
        return volume.read(extent)


def _look(volume: VolumeAt, opener: Opener, path: str) -> Sighting:
    """Open the file system in a new engine, and return the file with the bytes that it read."""
    source = volume.source
    whole = (Extent(0, max(source.size, 1)),)
    try:
        if not volume.is_slice and not opener.has_in_appliance(volume.volume):
            return Sighting(None, whole)
        file_system = opener(replace(volume.volume, source=source))
    except UsageError as exc:
        if not opener.is_parsing:
            raise
        return Sighting(FileState(None, failure=str(exc)), whole)
    except CbtfsError as exc:
        return Sighting(FileState(None, failure=str(exc)), whole)
    try:
        file_system.reads()
        sighting = _sighting(file_system, path)
    except GuestFileMissing:
        sighting = Sighting(None, ())
    except CbtfsError as exc:
        return Sighting(FileState(None, failure=str(exc), engine=file_system.engine), whole)
    try:
        reads = file_system.reads()
    except CbtfsError:
        return replace(sighting, structure=whole)
    return replace(sighting, structure=tuple(_structure(source, reads)) if reads else whole)


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


def _sighting(file_system: FileSystem, path: str) -> Sighting:
    """Return a file without its structure."""
    entry = replace(file_system.stat(path), accessed_ns=0, created_ns=None)
    target = file_system.target(path) if entry.kind is Kind.LINK else ""
    state = FileState(entry, target, engine=file_system.engine)
    if entry.kind is not Kind.FILE or entry.defect is not None:
        return Sighting(state, ())
    extents = list(file_system.extents(path))
    parts = [Part(e.start, e.length, e.offset) for e in extents if e.offset is not None]
    if len(parts) == len(extents):
        return Sighting(state, (), tuple(parts))
    return Sighting(state, (), digest=content_digest(_content(file_system, path, extents)))


def _content(
    file_system: FileSystem, path: str, extents: Iterable[FileExtent]
) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each part of a file, as its engine reads it."""
    for extent in extents:
        for at in range(extent.start, extent.end, MAX_READ_BYTES):
            yield at, file_system.read(path, at, min(MAX_READ_BYTES, extent.end - at))
