"""Whether this process can mount: the FUSE device, capabilities, fusermount3.

libfuse prints its own message where one of them is missing. So each is checked before.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import MountFailed

DEVICE: Final = "/dev/fuse"
HELPER: Final = "fusermount3"
"""Program with setuid root that mounts for other users than root."""
_FUSE_CONF: Final = "/etc/fuse.conf"
_DEVICE_NUMBER: Final = os.makedev(10, 229)
"""Documentation/admin-guide/devices.txt of Linux."""
_CAP_SYS_ADMIN: Final = 21


def require_permission(*, for_others: bool) -> None:
    """Check that this user can mount.

    Raises:
        MountFailed: the user cannot mount, or not *for_others*.
    """
    _require_device()
    if os.geteuid() == 0:
        if not _has_capability(_CAP_SYS_ADMIN):
            raise MountFailed(
                "cannot mount: root lacks the capability CAP_SYS_ADMIN here; start the container "
                f"with --cap-add SYS_ADMIN --device {DEVICE}"
            )
        return
    if process.find_program(HELPER) is None:
        raise MountFailed(
            f"cannot mount: only root can mount without {HELPER}; install the package fuse3"
        )
    if for_others and not _others_are_allowed():
        raise MountFailed(
            f"cannot mount with --allow-other: only root may; omit the option, or add the line "
            f"user_allow_other to {_FUSE_CONF} as root"
        )


def _require_device() -> None:
    """Check that the FUSE device can be opened.

    A device that exists and has the right mode can still fail to open: in a container whose device
    controller forbids it, or without the kernel module.
    """
    try:
        facts = os.stat(DEVICE)
        if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != _DEVICE_NUMBER:
            raise MountFailed(
                f"cannot mount: {DEVICE} is not the FUSE device; remove it and run "
                f"'mknod --mode=666 {DEVICE} c 10 229' as root"
            )
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as exc:
        raise MountFailed(
            f"cannot mount: {DEVICE} does not exist; load the kernel module 'fuse', or pass the "
            "device to the container"
        ) from exc
    except OSError as exc:
        raise MountFailed(f"cannot mount: {_reason(exc)}") from exc


def _reason(exc: OSError) -> str:
    if exc.errno in (errno.ENODEV, errno.ENXIO):
        return f"the kernel does not serve {DEVICE}; load the kernel module 'fuse'"
    if exc.errno not in (errno.EACCES, errno.EPERM):
        return f"cannot open {DEVICE}: {exc.strerror}"
    if os.access(DEVICE, os.R_OK | os.W_OK, effective_ids=True):
        return (
            f"this container may not open {DEVICE}; start it with --cap-add SYS_ADMIN "
            f"--device {DEVICE}"
        )
    return (
        f"no permission to open {DEVICE}; run 'chmod 666 {DEVICE}' as root, the "
        "mode that udev sets on most systems, or mount as root"
    )


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return True  # an unknown kernel: libfuse will tell


def _others_are_allowed() -> bool:
    try:
        lines = Path(_FUSE_CONF).read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
