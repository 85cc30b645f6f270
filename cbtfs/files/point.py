"""The files of a restore point: its volumes, placed as in the guest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from cbtfs.core.filenames import RAW, disk_names
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError
from cbtfs.files.engine_parse.engine import CALL_SECONDS, ParsedFileSystem
from cbtfs.files.placing import Identity, Placement, identities, place
from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import Kind, State
from cbtfs.files.protocol import FileSystem, FileSystemUnsupported
from cbtfs.files.protocol import Kind as FileKind
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume, Volumes, volumes_of
from cbtfs.reader import Disk, Reader
from cbtfs.store.repository import Repository
from cbtfs.volumes.slices import NamedDisk

PARSERS: Final[Mapping[Kind, str]] = {
    **dict.fromkeys((Kind.EXT2, Kind.EXT3, Kind.EXT4), "ext"),
    Kind.NTFS: "ntfs",
}
"""Parsers of the engine `parse` by the content of a volume."""
_MODULES: Final = {"ntfs": "pyfsntfs"}
"""Modules of the extra `files`, by the parser that needs them."""
_FSTAB: Final = "/etc/fstab"
_WINDOWS: Final = "/Windows"
_MAX_FSTAB: Final = 1 << 18
_AS_IT_IS: Final = "its journal is not replayed, so the last changes may be missing"
_LINUX: Final = frozenset({Kind.EXT2, Kind.EXT3, Kind.EXT4, Kind.XFS})


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
    repository: Repository, manifest: Manifest, volume: str | None
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
        point_files(Reader(repository), manifest, volume) as files,
    ):
        yield files


@contextmanager
def point_files(
    reader: Reader, manifest: Manifest, volume: str | None, *, seconds: float = CALL_SECONDS
) -> Iterator[PointFiles]:
    """Open the files of a point, which the caller has leased; see open_files().

    *seconds*: longest time that an engine may compute for one call.
    """
    with ExitStack() as stack:
        volumes = volumes_of(reader, manifest)
        opened = _Opened(seconds)
        stack.callback(opened.close)
        if volume is not None:
            placement = Placement()
            places = {"/": volumes.named(volume)}
        else:
            placement = _placed(reader, manifest, volumes, opened)
            places = {path: volumes.named(at.volume) for path, at in placement.places.items()}
        disks = [reader.disk(record) for record in manifest.disks]
        yield PointFiles(
            manifest.point, GuestTree(places, opened), volumes, placement, places, disks
        )


class _Opened:
    """File systems of a point, each opened once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._opened: dict[str, FileSystem] = {}

    def __call__(self, volume: Volume) -> FileSystem:
        file_system = self._opened.get(volume.name)
        if file_system is None:
            file_system = self._opened[volume.name] = open_file_system(volume, self._seconds)
        return file_system

    def close(self) -> None:
        """End all engines."""
        for file_system in self._opened.values():
            file_system.close()
        self._opened.clear()


def _placed(
    reader: Reader,
    manifest: Manifest,
    volumes: Volumes,
    open_volume: Callable[[Volume], FileSystem],
) -> Placement:
    """Return the volumes by the paths where the guest mounts them."""
    names = disk_names(manifest.disks)
    disks = [
        NamedDisk(number, name.removesuffix(RAW), reader.disk(disk))
        for number, (disk, name) in enumerate(zip(manifest.disks, names, strict=True))
        if disk.kind == "disk"
    ]
    known = identities([(volume.name, volume.source) for volume in volumes.shown], disks)
    fstabs: dict[str, str] = {}
    windows: list[str] = []
    for identity in known:
        if identity.kind in PARSERS:
            # A volume that cannot be opened has its error when its files are accessed.
            with suppress(CbtfsError):
                _look(identity, open_volume(volumes.named(identity.name)), fstabs, windows)
    placement = place(known, fstabs, windows)
    if not placement.places:
        contents = ", ".join(f"{identity.name} ({identity.kind})" for identity in known)
        raise FileSystemUnsupported(f"no volume of this point has files: {printable(contents)}")
    return placement


def _look(
    identity: Identity, file_system: FileSystem, fstabs: dict[str, str], windows: list[str]
) -> None:
    """Add the `fstab` of a volume, or its name if it has a Windows."""
    if identity.kind in _LINUX:
        if file_system.stat(_FSTAB).kind is FileKind.FILE:
            text = file_system.read(_FSTAB, 0, _MAX_FSTAB)
            fstabs[identity.name] = text.decode("utf-8", "surrogateescape")
    elif file_system.stat(_WINDOWS).kind is FileKind.DIRECTORY:
        windows.append(identity.name)


def open_file_system(volume: Volume, seconds: float = CALL_SECONDS) -> FileSystem:
    """Open the file system of a volume.

    Raises:
        FileSystemUnsupported: no engine can read it.
        FileSystemDamaged: it is damaged.
    """
    probed = probe(volume.source)
    kind = probed.kind
    parser = PARSERS.get(kind)
    if parser is None:
        raise FileSystemUnsupported(
            f"volume {volume.name} has {kind}, which the engine parse does not read"
        )
    module = _MODULES.get(parser)
    if module is not None and find_spec(module) is None:
        raise FileSystemUnsupported(
            f"volume {volume.name} has {kind}: install cbtfs with the extra 'files': "
            "pip install 'cbtfs[files]'"
        )
    try:
        file_system = ParsedFileSystem(volume.source, parser, seconds)
        if kind is Kind.NTFS and probed.state is not State.CLEAN:
            file_system.notes = [*file_system.notes, f"{_AS_IT_IS}: {probed.detail}"]
        return file_system
    except CbtfsError as exc:
        raise type(exc)(f"volume {volume.name}: {exc}") from exc


def unplaced(placement: Placement) -> Sequence[str]:
    """Return notes on the placement, each one phrase."""
    notes = list(placement.notes)
    if placement.unplaced:
        names = ", ".join(placement.unplaced)
        notes.append(f"volumes that the guest does not mount: {names}; see --volume")
    return notes
