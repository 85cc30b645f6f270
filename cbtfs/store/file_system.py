"""File systems that cannot hold a repository, because LMDB does not work there."""

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
"""Source of a cbtfs mount in mountinfo."""


def file_system(path: Path) -> tuple[str, str]:
    """Return type and source of the file system of *path*; empty if they are unknown."""
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
    """Raise DataCorrupt unless packs/ and points/ of the repository are directories."""
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
                f"{folder} is missing or not a directory: is its file system mounted? Otherwise "
                "restore it from a copy of the repository"
            )


def refuse_unsuitable(path: Path) -> None:
    """Raise UsageError if *path* is on a network file system or inside a cbtfs mount.

    LMDB keeps locks and shared memory in files (lmdb.h, "Do not use LMDB databases on remote
    filesystems"). A mount that reads from itself deadlocks.
    """
    kind, source = file_system(path)
    if kind.startswith("fuse") and source == OURS:
        raise UsageError(f"{path} is inside a mount of cbtfs: name the repository itself")
    if kind in _REMOTE or kind in _REMOTE_FUSE:
        raise UsageError(
            f"{path} is on a network file system ({kind}), which would damage the catalog: "
            "keep the repository on a local file system"
        )
