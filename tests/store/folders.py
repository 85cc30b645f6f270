"""Packs and points of a directory, without the repository around them.

If the directory is in an encrypted repository, its keys are used.
"""

from pathlib import Path

from cbtfs.store.backend.layout import open_points
from cbtfs.store.backend.local import Directory, LocalObject, ShardedDirectory
from cbtfs.store.encryption.ring import is_encrypted, keys_of
from cbtfs.store.folder import Folder
from cbtfs.store.pack import Pack
from cbtfs.store.packs import PackFolder, digester_of
from cbtfs.store.points import PointFolder


def packs_at(path: Path) -> PackFolder:
    return PackFolder(ShardedDirectory(Folder(path)), keys_of(path.parent))


def points_at(path: Path) -> PointFolder:
    if is_encrypted(path.parent):
        return PointFolder(open_points(path.parent))
    return PointFolder(Directory(Folder(path)))


def pack_at(path: Path) -> Pack:
    repository = path.parents[2]
    return Pack(LocalObject(path), keys_of(repository), digester_of(repository))
