"""Packs and points of a directory, without the repository around them."""

from pathlib import Path

from cbtfs.store.backend.local import Directory, LocalObject, ShardedDirectory
from cbtfs.store.folder import Folder
from cbtfs.store.pack import Pack
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder


def packs_at(path: Path) -> PackFolder:
    return PackFolder(ShardedDirectory(Folder(path)))


def points_at(path: Path) -> PointFolder:
    return PointFolder(Directory(Folder(path)))


def pack_at(path: Path) -> Pack:
    return Pack(LocalObject(path))
