"""Namespaces for a program that starts others: all end together, and reach no other process.

Sources: user_namespaces(7), pid_namespaces(7).
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import Final

_NEW: Final = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000
"""CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET and CLONE_NEWIPC."""
_SET_PDEATHSIG: Final = 1
_USER: Final = 1000
"""User that root is inside: libguestfs puts sockets of root into /tmp, whatever its settings."""


def enter() -> None:
    """Continue as the first process of new namespaces, while the caller waits for its exit code.

    If the caller is killed, the kernel kills all processes of the namespaces.

    Raises:
        OSError: the kernel refuses namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _make(libc)
    except OSError as exc:
        raise OSError(exc.errno, "this system refuses user namespaces") from exc
    alive, end = os.pipe()
    child = os.fork()
    if child:
        os.close(alive)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.close(end)
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
        os._exit(1)  # The parent was killed before the call of prctl().
    except BlockingIOError:
        os.close(alive)


def _make(libc: ctypes.CDLL) -> None:
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or _USER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or _USER} {group} 1")
