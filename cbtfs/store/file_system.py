"""Where a repository must not be: on a file system that does not do what LMDB needs."""

import os
import stat
from pathlib import Path
from typing import Final

from cbtfs.errors import DataCorrupt, UsageError
from cbtfs.store.owner import denied

MOUNTS: Final = Path("/proc/self/mountinfo")
_REMOTE: Final = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "9p")
)
_REMOTE_FUSE: Final = frozenset(
    ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.goofys", "fuse.ceph-fuse")
)
OURS: Final = "cbtfs"
"""The source that a mount of ours names."""


def file_system(path: Path) -> tuple[str, str]:
    """Type and source of the file system that *path* is on; empty where that cannot be told."""
    try:
        device = os.stat(path).st_dev
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return "", ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted]:
            kind, source = after.split()[:2]
            return kind, source
    return "", ""


def refuse_missing_folders(path: Path) -> None:
    """DataCorrupt if packs/ or points/ of the repository at *path* is missing or no folder."""
    for name in ("packs", "points"):
        folder = path / name
        try:
            is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
        except PermissionError as exc:
            raise denied(exc, folder) from exc
        except OSError:
            is_folder = False
        if not is_folder:
            raise DataCorrupt(
                f"{folder} is missing or no folder: is its file system mounted? Else put it back "
                "from a copy of the repository"
            )


def refuse_bad_place(path: Path) -> None:
    """UsageError if *path* is on a network file system, or inside a mount of ours.

    LMDB keeps locks and shared memory in files (lmdb.h, "Do not use LMDB databases on remote
    filesystems"); a mount that reads from itself waits for itself.
    """
    kind, source = file_system(path)
    if kind.startswith("fuse") and source == OURS:
        raise UsageError(f"{path} is inside a mount of cbtfs: name the repository itself")
    if kind in _REMOTE or kind in _REMOTE_FUSE:
        raise UsageError(
            f"{path} is on a network file system ({kind}), where the catalog would be damaged: "
            "keep the repository on a local one"
        )
