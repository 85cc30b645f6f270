"""Mount points: checks before a mount, status, and unmounting."""

import contextlib
import ctypes
import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from cbtfs import process
from cbtfs.errors import MountFailed
from cbtfs.mount.entry import STATUS_DIRECTORY, STATUS_FILE
from cbtfs.mount.holders import holders
from cbtfs.mount.mounts import FSNAME, mount_at, mounts
from cbtfs.mount.permission import HELPER

_UNMOUNT_SECONDS: Final = 60
_DETACH: Final = 2  # MNT_DETACH of mount.h
_NOFOLLOW: Final = 8  # UMOUNT_NOFOLLOW
_READ_AHEAD_KIB: Final = 4096
"""The kernel's default is 128 KiB. With 4 MiB, sequential reads were measured a third faster."""


class Busy(MountFailed):
    """Raised when a file below the mount point is in use."""


def prepare(path: Path, repository: Path) -> Path:
    """Check that *path* is a suitable mount point, and return its canonical path.

    A dead mount of cbtfs at *path* is unmounted first.

    Raises:
        MountFailed: the mount point is unsuitable.
    """
    mountpoint = Path(os.path.realpath(path))
    home = Path(os.path.realpath(repository))
    if mountpoint.is_relative_to(home) or home.is_relative_to(mountpoint):
        raise MountFailed(
            f"cannot mount on {path}: it and the repository {repository} contain each other; "
            "name another directory"
        )
    mount = mount_at(mountpoint)
    if mount is not None and mount.is_ours and is_dead(mountpoint):
        unmount(mountpoint)
        mount = mount_at(mountpoint)
    if mount is not None and mount.is_ours:
        raise MountFailed(
            f"cannot mount on {path}: it is a mount of cbtfs already; unmount it, or name another "
            "directory"
        )
    if any(m.is_ours and mountpoint.is_relative_to(m.path) for m in mounts()):
        raise MountFailed(
            f"cannot mount on {path}: it is inside a mount of cbtfs; name another directory"
        )
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError as exc:
        raise MountFailed(f"cannot mount on {path}: no such directory; create it") from exc
    except OSError as exc:
        raise MountFailed(
            f"cannot mount on {path}: {exc.strerror}; name an empty directory"
        ) from exc
    if names:
        raise MountFailed(f"cannot mount on {path}: it is not empty; name an empty directory")
    return mountpoint


def is_dead(path: Path) -> bool:
    """Return True if the processes of the file system at *path* have died."""
    try:
        os.statvfs(path)  # unlike stat(), which the kernel answers from its cache
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def remove(path: Path, *, is_lazy: bool = False) -> None:
    """Unmount the mount of cbtfs at *path*, dead or alive.

    Raises:
        MountFailed: *path* is not a mount of cbtfs, or it cannot be unmounted.
    """
    unmount(_require_ours(path), is_lazy=is_lazy)


def _require_ours(path: Path) -> Path:
    mountpoint = Path(os.path.realpath(path))
    mount = mount_at(mountpoint)
    if mount is None or not mount.is_ours:
        raise MountFailed(
            f"{path} is not a mount of cbtfs: list the mounts with 'findmnt -S {FSNAME}'"
        )
    return mountpoint


def load_status(path: Path) -> dict[str, Any]:
    """Return the status document of the mount of cbtfs at *path*.

    Raises:
        MountFailed: *path* is not a mount of cbtfs, or it does not answer.
    """
    mountpoint = _require_ours(path)
    try:
        document = json.loads((mountpoint / STATUS_DIRECTORY / STATUS_FILE).read_bytes())
    except (OSError, ValueError) as exc:
        raise MountFailed(
            f"the mount at {path} does not answer: {exc}; see its log, then mount it again"
        ) from exc
    return dict(document)


def unmount(path: Path, *, is_lazy: bool = False) -> None:
    """Unmount the file system at *path*. *is_lazy*: detach it even if it is in use.

    Raises:
        Busy: it is in use; the message names the users.
        MountFailed: it cannot be unmounted.
    """
    failure = _unmount(path, is_lazy)
    if failure is None:
        return
    if failure == errno.EBUSY:
        users = ", ".join(holders(path)) or "a process that is not visible here"
        raise Busy(f"{path} is busy: it is held by {users}; unmount, detach and close these first")
    raise MountFailed(f"cannot unmount {path}: {os.strerror(failure)}")


def _unmount(path: Path, is_lazy: bool) -> int | None:
    """Return the errno of a failure, or None."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _NOFOLLOW | (_DETACH if is_lazy else 0)
        return ctypes.get_errno() if libc.umount2(os.fsencode(path), flags) else None
    helper = process.find_program(HELPER)
    if helper is None:
        return errno.ENOENT
    command = [helper, "-u", *(["-z"] if is_lazy else []), "--", str(path)]
    try:
        done = process.run(command, _UNMOUNT_SECONDS)
    except process.TimeoutExpired:
        return errno.ETIMEDOUT
    except OSError as exc:
        return exc.errno
    if done.returncode == 0:
        return None
    return errno.EBUSY if "busy" in done.stderr.lower() else errno.EPERM


def raise_read_ahead(path: Path) -> None:
    """Raise the kernel's read-ahead for the mount at *path* if this process has the permission."""
    mount = mount_at(path)
    if mount is not None:
        with contextlib.suppress(OSError):
            setting = Path("/sys/class/bdi", mount.device, "read_ahead_kb")
            setting.write_text(str(_READ_AHEAD_KIB))
