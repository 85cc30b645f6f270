"""The files of a point's guest, for commands that read them in the mount."""

from cbtfs.core.manifest import Manifest
from cbtfs.files.point import open_files
from cbtfs.files.protocol import FileSystemDamaged, FileSystemUnsupported
from cbtfs.store.repository import Repository


def unreadable_files(repository: Repository, manifest: Manifest) -> str | None:
    """Return the reason why the root of the guest's files cannot be listed, or None.

    Raises:
        ChunkMissing, DataCorrupt: the data of the point is damaged.
    """
    try:
        with open_files(repository, manifest, None) as files:
            for _ in files.tree.entries(files.tree.find("/")):
                pass
    except (FileSystemDamaged, FileSystemUnsupported) as exc:
        return str(exc)
    return None
