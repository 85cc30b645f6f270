"""The files of a restore point: its volumes, placed as in the guest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from cbtfs.core.filenames import RAW, disk_names
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, PointNotFound, UsageError
from cbtfs.files.engine_parse.engine import CALL_SECONDS
from cbtfs.files.engines import Engines, Opener, merged
from cbtfs.files.parsing import PARSERS
from cbtfs.files.placing import Identity, Placement, identities, place
from cbtfs.files.probe.values import Kind
from cbtfs.files.protocol import (
    EngineFailed,
    FileSystem,
    FileSystemUnsupported,
    GuestFileMissing,
)
from cbtfs.files.protocol import Kind as FileKind
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Nothing, Volume, Volumes, volumes_of
from cbtfs.reader import Disk, Reader
from cbtfs.store.repository import Repository
from cbtfs.volumes.slices import NamedDisk

_FSTAB: Final = "/etc/fstab"
_WINDOWS: Final = "/Windows"
_MAX_FSTAB: Final = 1 << 18
_MAX_SUBVOLUMES: Final = 64
_LINUX: Final = frozenset({Kind.EXT2, Kind.EXT3, Kind.EXT4, Kind.XFS, Kind.BTRFS})
_ROOTS: Final = _LINUX | {Kind.NTFS}
"""Contents that can have an operating system."""


@dataclass(frozen=True, slots=True)
class PointFiles:
    """The files of one point."""

    point: PointId
    tree: GuestTree
    volumes: Volumes
    placement: Placement
    places: Mapping[str, Volume]
    """Volumes by the path where the guest mounts them."""
    disks: Sequence[Disk]


@contextmanager
def open_files(
    repository: Repository,
    manifest: Manifest,
    volume: str | None,
    engines: Engines = Engines(),  # noqa: B008 - it is frozen
) -> Iterator[PointFiles]:
    """Open the files of a point, which is kept until the end of the block.

    *volume*: the volume whose file system is the tree; None places all volumes.

    Raises:
        PointNotFound: there is no such volume.
        ChunkMissing, DataCorrupt: the volumes cannot be found.
        FileSystemUnsupported: no volume has a known file system.
    """
    with (
        repository.points.leased(manifest.point),
        point_files(Reader(repository), manifest, volume, engines) as files,
    ):
        yield files


@contextmanager
def point_files(
    reader: Reader,
    manifest: Manifest,
    volume: str | None,
    engines: Engines = Engines(),  # noqa: B008 - it is frozen
    *,
    seconds: float = CALL_SECONDS,
) -> Iterator[PointFiles]:
    """Open the files of a point, which the caller has leased; see open_files().

    *seconds*: longest time that the engine parse may compute for one call.
    """
    with ExitStack() as stack:
        volumes = volumes_of(reader, manifest)
        opener = Opener(engines, manifest, seconds)
        stack.callback(opener.close)
        if volume is not None:
            placement = Placement()
            places = {"/": opener.named(volumes, volume)}
        else:
            placement, places = _placed(reader, manifest, volumes, opener)
        disks = [reader.disk(record) for record in manifest.disks]
        yield PointFiles(
            manifest.point, GuestTree(places, opener), volumes, placement, places, disks
        )


def _placed(
    reader: Reader, manifest: Manifest, volumes: Volumes, opener: Opener
) -> tuple[Placement, dict[str, Volume]]:
    """Return the placement, and the volumes by the paths where the guest mounts them."""
    names = disk_names(manifest.disks)
    disks = [
        NamedDisk(number, name.removesuffix(RAW), reader.disk(disk))
        for number, (disk, name) in enumerate(zip(manifest.disks, names, strict=True))
        if disk.kind == "disk"
    ]
    known = identities([(volume.name, volume.source) for volume in volumes.shown], disks)
    systems = _Systems()
    is_sufficient = False
    if opener.is_parsing:
        for identity in known:
            if identity.kind in PARSERS:
                # A volume that cannot be opened has its error when its files are accessed.
                with suppress(CbtfsError):
                    systems.look(identity, opener.parsed(volumes.named(identity.name)))
        is_sufficient = bool(systems.fstabs or systems.windows)
    notes: list[str] = []
    may_find_more = opener.may_find_more(volumes, [identity.kind for identity in known])
    if not is_sufficient and (may_find_more or not opener.is_parsing):
        try:
            known = merged(known, opener.appliance().volumes)
        except (UsageError, EngineFailed) as exc:
            if not opener.is_parsing:
                raise
            notes.append(str(exc))
        else:
            for identity in known:
                if identity.kind in _ROOTS:
                    with suppress(CbtfsError):
                        systems.look(identity, opener(_volume(volumes, identity.name)))
                    if identity.kind is Kind.BTRFS and identity.name not in systems.fstabs:
                        with suppress(CbtfsError):
                            top = _volume(volumes, identity.name, top=True)
                            systems.look_below(identity, opener(top))
    placement = place(known, systems.fstabs, systems.windows)
    placement.notes += notes
    if not placement.places:
        contents = ", ".join(f"{identity.name} ({identity.kind})" for identity in known)
        reason = "".join(f"; {note}" for note in notes)
        raise FileSystemUnsupported(
            f"no volume of this point has files: {printable(contents)}{reason}"
        )
    if is_sufficient and may_find_more and placement.notes:
        placement.notes.append("--engine appliance can find more volumes")
    places = {
        path: _volume(volumes, at.volume, at.subvolume) for path, at in placement.places.items()
    }
    return placement, places


def _volume(volumes: Volumes, name: str, subvolume: str = "", *, top: bool = False) -> Volume:
    """Return a volume or a subvolume. A volume that is not a slice has no bytes here."""
    try:
        volume = volumes.named(name)
    except PointNotFound:
        volume = Volume(name, Nothing())
    if subvolume or top:
        subvolume = subvolume.strip("/")
        shown = f"{name}[/{subvolume}]"
        return replace(volume, name=shown, device=name, subvolume=subvolume)
    return volume


@dataclass
class _Systems:
    """Operating systems on the volumes of a point."""

    fstabs: dict[str, str] = field(default_factory=dict)
    """Text of `/etc/fstab` by volume."""
    windows: list[str] = field(default_factory=list)
    """Volumes that have a Windows."""

    def look(self, identity: Identity, file_system: FileSystem) -> None:
        """Add the `fstab` of a volume, or its name if it has a Windows."""
        if identity.kind not in _LINUX:
            if file_system.stat(_WINDOWS).kind is FileKind.DIRECTORY:
                self.windows.append(identity.name)
        elif file_system.stat(_FSTAB).kind is FileKind.FILE:
            self.fstabs[identity.name] = _text(file_system, _FSTAB)

    def look_below(self, identity: Identity, file_system: FileSystem) -> None:
        """Add the `fstab` of a volume that is in one of its first directories."""
        entries = islice(file_system.entries("/"), _MAX_SUBVOLUMES)
        for entry in sorted(entries, key=lambda entry: entry.name):
            with suppress(GuestFileMissing):
                path = f"/{entry.name}{_FSTAB}"
                if file_system.stat(path).kind is FileKind.FILE:
                    self.fstabs[identity.name] = _text(file_system, path)
                    return


def _text(file_system: FileSystem, path: str) -> str:
    return file_system.read(path, 0, _MAX_FSTAB).decode("utf-8", "surrogateescape")


def unplaced(placement: Placement) -> Sequence[str]:
    """Return notes on the placement, each one phrase."""
    notes = list(placement.notes)
    if placement.unplaced:
        names = ", ".join(placement.unplaced)
        notes.append(f"volumes that the guest does not mount: {names}; see --volume")
    return notes
