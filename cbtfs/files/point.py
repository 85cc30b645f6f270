"""The files of a restore point: its volumes, placed as in the guest."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError, UsageError
from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.ext.superblock import has_superblock
from cbtfs.files.protocol import FileSystem, FileSystemUnsupported
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume, Volumes, volumes_of
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository
from cbtfs.volumes.source import Source


@dataclass(frozen=True, slots=True)
class PointFiles:
    """The files of one point."""

    tree: GuestTree
    volumes: Volumes


@contextmanager
def open_files(
    repository: Repository, manifest: Manifest, volume: str | None
) -> Iterator[PointFiles]:
    """Open the files of a point, which is kept until the end of the block.

    *volume*: the volume whose file system is the tree; None places all volumes.

    Raises:
        PointNotFound: there is no such volume.
        ChunkMissing, DataCorrupt: the volumes cannot be found.
        FileSystemUnsupported: no volume has files that can be read.
    """
    with ExitStack() as stack:
        stack.enter_context(repository.points.leased(manifest.point))
        volumes = volumes_of(Reader(repository), manifest)
        places = {"/": volumes.named(volume)} if volume is not None else place(volumes)
        tree = GuestTree(places, open_file_system)
        stack.callback(tree.close)
        yield PointFiles(tree, volumes)


def place(volumes: Volumes) -> dict[str, Volume]:
    """Return the volumes by the path where the guest mounts them."""
    candidates = [volume for volume in volumes.shown if kind_of(volume.source) is not None]
    if len(candidates) == 1:
        return {"/": candidates[0]}
    if not candidates:
        names = ", ".join(volume.name for volume in volumes.shown)
        raise FileSystemUnsupported(f"no volume of this point has a known file system: {names}")
    names = ", ".join(volume.name for volume in candidates)
    raise UsageError(f"several volumes have files: choose one with --volume: {names}")


def kind_of(source: Source) -> str | None:
    """Return the kind of the file system of a volume, None if it is unknown."""
    return "ext" if has_superblock(source) else None


def open_file_system(volume: Volume) -> FileSystem:
    """Open the file system of a volume.

    Raises:
        FileSystemUnsupported: no engine can read it.
        FileSystemDamaged: it is damaged.
    """
    kind = kind_of(volume.source)
    if kind is None:
        raise FileSystemUnsupported(f"volume {volume.name}: its file system is unknown")
    try:
        return ParsedFileSystem(volume.source, kind)
    except CbtfsError as exc:
        raise type(exc)(f"volume {volume.name}: {exc}") from exc
