"""Owner of repository files: root gives the files that it creates to the owner of the repository.

Otherwise one command as root would make the repository unusable for its owner.
"""

import errno
import os
import pwd
from pathlib import Path

from cbtfs.errors import AccessDenied
from cbtfs.store.shown import shown


def give_new(path: Path, fd: int | None = None) -> None:
    """Give a new file or directory at *path*, open as *fd*, to the owner of its parent directory.

    Raises:
        AccessDenied: this process is root and may not change the owner, as in some containers.
    """
    if os.geteuid() != 0:
        return
    folder = os.stat(path.parent)
    owner, group = folder.st_uid, folder.st_gid
    if (owner, group) == (os.geteuid(), os.getegid()):
        return
    try:
        if fd is None:
            os.chown(path, owner, group, follow_symlinks=False)
        else:
            os.fchown(fd, owner, group)
    except PermissionError as exc:
        raise AccessDenied(
            f"cannot give {shown(path)} to {name_of(owner)}: {exc.strerror}; "
            "run the command as that user"
        ) from exc


def refuse_denied(exc: OSError, path: Path) -> None:
    """Raise AccessDenied, with the owner, if *exc* is a refused permission."""
    if exc.errno in (errno.EACCES, errno.EPERM):
        raise denied(exc, path) from exc


def denied(exc: OSError, path: Path) -> AccessDenied:
    """Return the error of a refused permission, with the owner of the path and this user."""
    named = Path(os.fsdecode(exc.filename)) if isinstance(exc.filename, str | bytes) else path
    refused = shown(named)
    return AccessDenied(
        f"cannot open {refused}: {exc.strerror}; {_owner_of(refused)}, this process is "
        f"{name_of(os.geteuid())}: run the command as the owner, or give the path to the "
        "owner of the repository as root"
    )


def _owner_of(path: Path) -> str:
    """Return a phrase with the owner of *path*, or of the nearest parent that can be examined."""
    for place in (path, *path.absolute().parents):
        try:
            return f"{place} belongs to {name_of(os.stat(place, follow_symlinks=False).st_uid)}"
        except OSError:
            continue
    return "its owner is unknown"


def name_of(user: int) -> str:
    """Return name and number of a user."""
    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"
