"""Who owns the files of a repository: what root writes belongs to the owner of the repository.

Otherwise the owner could not read or write a repository any more that root wrote to once.
"""

import errno
import os
import pwd
from pathlib import Path

from cbtfs.errors import AccessDenied
from cbtfs.store.shown import shown


def give_new(path: Path, fd: int | None = None) -> None:
    """Give a new file or folder at *path*, open as *fd*, to the owner of the folder it is in.

    Raises:
        AccessDenied: this process is root and may not do that, as in some containers.
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
    """Raise AccessDenied, with the owner, if *exc* says that *path* may not be used."""
    if exc.errno in (errno.EACCES, errno.EPERM):
        raise denied(exc, path) from exc


def denied(exc: OSError, path: Path) -> AccessDenied:
    """Return the error for a path that may not be used: whose it is, and who this process is."""
    named = Path(os.fsdecode(exc.filename)) if isinstance(exc.filename, str | bytes) else path
    found = shown(named)
    return AccessDenied(
        f"cannot open {found}: {exc.strerror}; {_whose(found)}, this process is "
        f"{name_of(os.geteuid())}: run the command as the owner, or let root give it to the "
        "owner of the repository"
    )


def _whose(path: Path) -> str:
    """Say whose *path* is, or the folder above it that can be examined."""
    for place in (path, *path.absolute().parents):
        try:
            return f"{place} belongs to {name_of(os.stat(place, follow_symlinks=False).st_uid)}"
        except OSError:
            continue
    return "its owner is not known"


def name_of(user: int) -> str:
    """Return the name of a user, or its number where it has none."""
    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"
