"""The place of a mount: what may be mounted where, what is mounted there, and who holds it."""

import contextlib
import ctypes
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from cbtfs import process
from cbtfs.core.names import printable
from cbtfs.errors import MountFailed
from cbtfs.mount.entry import STATUS_DIRECTORY, STATUS_FILE

FSNAME: Final = "cbtfs"
DEVICE: Final = "/dev/fuse"
_HELPER: Final = "fusermount3"
"""Setuid root: it mounts for ordinary users."""
_UNMOUNT_SECONDS: Final = 60
_CONFIGURATION: Final = "/etc/fuse.conf"
_DETACH: Final = 2  # MNT_DETACH of mount.h
_NOFOLLOW: Final = 8  # UMOUNT_NOFOLLOW
_READ_AHEAD_KIB: Final = 4096
"""128 KiB is the kernel's; with 4 MiB a sequential read was measured to be a third faster."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Busy(MountFailed):
    """Something is open below the mount point."""


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    path: str
    device: str
    """major:minor"""
    source: str

    @property
    def is_ours(self) -> bool:
        return self.source == FSNAME


def mounts() -> Iterator[Mount]:
    """All that is mounted, later mounts last."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            after = fields.index(b"-")
            path = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            yield Mount(os.fsdecode(path), fields[2].decode(), os.fsdecode(fields[after + 2]))


def mount_at(path: Path) -> Mount | None:
    """What is mounted at *path*, on top."""
    return next((m for m in reversed(list(mounts())) if m.path == str(path)), None)


def prepare(path: Path, repository: Path) -> Path:
    """The mount point as the kernel spells it, fit to be mounted on, or MountFailed.

    A mount of ours there whose processes have died is removed first.
    """
    place = Path(os.path.realpath(path))
    home = Path(os.path.realpath(repository))
    if place.is_relative_to(home) or home.is_relative_to(place):
        raise MountFailed(
            f"{path} and the repository {repository} contain each other: name another"
        )
    there = mount_at(place)
    if there is not None and there.is_ours and is_dead(place):
        unmount(place)
        there = mount_at(place)
    if there is not None and there.is_ours:
        raise MountFailed(f"{path} has a mount of cbtfs already: umount it, or name another folder")
    if any(m.is_ours and place.is_relative_to(m.path) for m in mounts()):
        raise MountFailed(f"{path} is inside a mount of cbtfs: name a folder outside")
    try:
        names = os.listdir(place)
    except FileNotFoundError as exc:
        raise MountFailed(f"there is no folder {path}: make it") from exc
    except OSError as exc:
        raise MountFailed(f"cannot mount on {path}: {exc.strerror}; name a folder") from exc
    if names:
        raise MountFailed(f"{path} is not empty: name a folder that is")
    return place


def may_mount(*, for_others: bool) -> None:
    """MountFailed, with what to do, if this user cannot mount at all or not for others."""
    if not os.path.exists(DEVICE):
        raise MountFailed(
            f"there is no {DEVICE}: load the module 'fuse', or give it to a container"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK, effective_ids=True):
        raise MountFailed(
            f"you may not open {DEVICE}: let root run 'chmod 666 {DEVICE}', as udev does on most "
            "systems, or mount as root"
        )
    if os.geteuid() == 0:
        return
    if process.find_program(_HELPER) is None:
        raise MountFailed(f"only root can mount without {_HELPER}: install the package fuse3")
    if for_others and not _others_are_allowed():
        raise MountFailed(
            f"only root may mount for others: leave out --allow-other, or let root put the line "
            f"user_allow_other into {_CONFIGURATION}"
        )


def _others_are_allowed() -> bool:
    try:
        lines = Path(_CONFIGURATION).read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def is_dead(path: Path) -> bool:
    """Whether nobody answers for the file system at *path* any more."""
    try:
        os.statvfs(path)  # the kernel answers stat() itself for a while
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def remove(path: Path, *, is_lazy: bool = False) -> None:
    """Unmount the mount of ours at *path*, dead or alive; MountFailed if there is none."""
    place = Path(os.path.realpath(path))
    there = mount_at(place)
    if there is None or not there.is_ours:
        raise MountFailed(
            f"{path} has no mount of cbtfs: findmnt -S {FSNAME} shows those there are"
        )
    unmount(place, is_lazy=is_lazy)


def load_status(path: Path) -> dict[str, Any]:
    """What the mount of ours at *path* says of itself; MountFailed if there is none, or dead."""
    place = Path(os.path.realpath(path))
    there = mount_at(place)
    if there is None or not there.is_ours:
        raise MountFailed(
            f"{path} has no mount of cbtfs: findmnt -S {FSNAME} shows those there are"
        )
    try:
        found = json.loads((place / STATUS_DIRECTORY / STATUS_FILE).read_bytes())
    except (OSError, ValueError) as exc:
        raise MountFailed(
            f"the mount at {path} does not answer ({exc}): see its log, then mount it again"
        ) from exc
    return dict(found)


def unmount(path: Path, *, is_lazy: bool = False) -> None:
    """Unmount what is at *path*; Busy, with its holders, if it is in use and must not be lazy."""
    failure = _unmount(path, is_lazy)
    if failure is None:
        return
    if failure == errno.EBUSY:
        held = ", ".join(holders(path)) or "a process that cannot be seen"
        raise Busy(f"{path} is busy: it is held by {held}; close that first")
    raise MountFailed(f"cannot unmount {path}: {os.strerror(failure)}")


def _unmount(path: Path, is_lazy: bool) -> int | None:
    """The errno of a failure."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _NOFOLLOW | (_DETACH if is_lazy else 0)
        return ctypes.get_errno() if libc.umount2(os.fsencode(path), flags) else None
    helper = process.find_program(_HELPER)
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


def holders(path: Path) -> list[str]:
    """What keeps the file system at *path* in use, in words: loop devices, mounts, processes."""
    inside = f"{path}/"
    found = [
        f"/dev/{name} on {printable(file)}" for name, file in _loops() if file.startswith(inside)
    ]
    found += [f"the mount {printable(m.path)}" for m in mounts() if m.path.startswith(inside)]
    for number in sorted((p for p in os.listdir("/proc") if p.isdigit()), key=int):
        if int(number) == os.getpid():
            continue
        held = next((f for f in _open_files(number) if f == str(path) or f.startswith(inside)), "")
        if held:
            found.append(f"process {number} ({_command(number)}) on {printable(held)}")
    return found


def _loops() -> Iterator[tuple[str, str]]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir("/sys/block")):
            with contextlib.suppress(OSError):
                file = Path("/sys/block", name, "loop", "backing_file").read_bytes()
                yield name, os.fsdecode(file).rstrip("\n")


def _open_files(process: str) -> Iterator[str]:
    folder = f"/proc/{process}"
    links = [f"{folder}/cwd", f"{folder}/root"]
    with contextlib.suppress(OSError):
        links += [f"{folder}/fd/{fd}" for fd in os.listdir(f"{folder}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(link)


def _command(process: str) -> str:
    try:
        return printable(Path("/proc", process, "comm").read_text().strip())
    except OSError:
        return "ended"


def raise_read_ahead(path: Path) -> None:
    """Let the kernel read further ahead, where this process may ask for it."""
    there = mount_at(path)
    if there is not None:
        with contextlib.suppress(OSError):
            setting = Path("/sys/class/bdi", there.device, "read_ahead_kb")
            setting.write_text(str(_READ_AHEAD_KIB))
