"""Run a program that works on a guest's data in a sandbox: `python -m cbtfs.prove.confined`.

The data is hostile. The program, and those that it starts, have no network, no capabilities and no
new privileges, bounded memory and processor time, and access only to the programs and libraries of
the system and to the files that are named. A kernel without Landlock does
not limit the access to files. All this works for any user.

Sources: landlock(7), capset(2), seccomp(2), and the tables of system calls of both architectures.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.files.engine_parse import sandbox
from cbtfs.prove import namespaces

FAILED: Final = "cbtfs: cannot confine the program"
FAILED_CODE: Final = 125
"""Exit code and beginning of the output if the sandbox or the program cannot be started."""

_MODULE: Final = "cbtfs.prove.confined"
_MEMORY_BYTES: Final = 16 << 30
"""Limit of the address space: e2fsck and xfs_repair keep maps of a large volume in memory."""
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_FACTS: Final = (
    *("/proc/self/mounts", "/proc/meminfo", "/proc/cpuinfo", "/proc/swaps"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/e2fsck.conf", "/etc/localtime", "/etc/mtab"),
)
_PDEATHSIG: Final = 1
_DROP_BOUND: Final = 24
_SIGKILL: Final = 9
_CAPABILITIES: Final = 64
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT: Final = 446
_ACCESS_OF_VERSION: Final = (0, 0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)
"""All kinds of access to files, by version of Landlock."""
_EXECUTE: Final = 0x1
_WRITE_FILE: Final = 0x2
_READ_FILE: Final = 0x4
_READ_DIRECTORY: Final = 0x8
_TRUNCATE: Final = 0x4000
_READ_WRITE: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE
_IN_FOLDER: Final = _READ_WRITE | _READ_DIRECTORY | 0x10 | 0x20 | 0x80 | 0x100 | 0x200
"""Directories and files are removed and made, and sockets are made."""
_IOCTL: Final = 0x8000
_ACCESS: Final = {"r": _READ_FILE, "w": _READ_WRITE, "f": _IN_FOLDER, "d": _READ_WRITE | _IOCTL}
_DENIED: Final = {
    # kill ptrace mknod pivot_root mount umount2 swapon reboot init_module
    # tkill rt_sigqueueinfo add_key request_key keyctl mknodat unshare rt_tgsigqueueinfo
    # perf_event_open open_by_handle_at setns process_vm_readv process_vm_writev finit_module
    # kexec_load bpf userfaultfd pidfd_send_signal io_uring_setup open_tree move_mount fsopen
    # pidfd_getfd
    "x86_64": (
        *(62, 101, 133, 155, 165, 166, 167, 169, 175, 200, 129, 248, 249, 250, 259),
        *(272, 297, 298, 304, 308, 310, 311, 313, 246, 321, 323, 424, 425, 428, 429, 430, 438),
    ),
    "aarch64": (
        *(129, 117, 41, 40, 39, 224, 142, 105, 130, 138, 217, 218, 219, 33, 97, 240),
        *(241, 265, 268, 270, 271, 273, 104, 280, 282, 424, 425, 428, 429, 430, 438),
    ),
}
_KILL: Final = {"x86_64": 62, "aarch64": 129}
_SOCKETS: Final = {"x86_64": (41, 42, 53), "aarch64": (198, 203, 199)}
"""socket connect socketpair"""


@dataclass(frozen=True, slots=True)
class Confinement:
    """The files that a program may access beside those of the system."""

    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    folders: Sequence[Path] = ()
    """Directories in which it makes and writes files and sockets."""
    devices: Sequence[Path] = ()
    allows_sockets: bool = False
    """Whether it makes sockets, which Landlock restricts to those of Unix."""
    has_namespaces: bool = False
    """Whether it runs in new namespaces. It may then signal its children; none outlives it."""
    seconds: float = 4 * 3600.0
    """Limit of its processor time, and of that of each program that it starts."""

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs *command*, whose program is an absolute path.

        The kernel kills the program when the thread that starts it ends.
        """
        kinds = {"r": self.readable, "w": self.writable, "f": self.folders, "d": self.devices}
        files = [f"{kind}{path}" for kind, paths in kinds.items() for path in paths]
        flags = [str(int(flag)) for flag in (self.allows_sockets, self.has_namespaces)]
        limits = [str(os.getpid()), str(int(self.seconds)), *flags, str(len(files))]
        return process.module(_MODULE, *limits, *files, *command)


def main(arguments: Sequence[str]) -> None:
    """Confine this process, and execute the program of the arguments; see Confinement.command()."""
    parent, seconds, sockets, alone, count = map(int, arguments[:5])
    files, command = arguments[5 : 5 + count], arguments[5 + count :]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    try:
        if alone:
            namespaces.enter()
        _confine(command[0], files, seconds, _denied(bool(sockets), bool(alone)))
        os.execv(command[0], list(command))
    except OSError as exc:
        sys.stderr.write(f"{FAILED}: {exc}\n")
        sys.stderr.flush()
        os._exit(FAILED_CODE)


def _denied(allows_sockets: bool, has_namespaces: bool) -> Mapping[str, Sequence[int]]:
    """Return the system calls that are denied, by machine."""
    return {
        machine: [
            *(number for number in denied if not has_namespaces or number != _KILL[machine]),
            *(() if allows_sockets else _SOCKETS[machine]),
        ]
        for machine, denied in _DENIED.items()
    }


def _confine(
    program: str, files: Iterable[str], seconds: int, denied: Mapping[str, Sequence[int]]
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(seconds)
    _drop_capabilities(libc)
    _restrict_files(libc, program, files)
    machine = platform.machine()
    if machine in denied:
        sandbox.install(sandbox.denying(machine, denied[machine]))


def _limit(seconds: int) -> None:
    """Bound memory and time. xfs_repair refuses a limit of file sizes."""
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drop all capabilities for this process and the programs that it executes."""
    for number in range(_CAPABILITIES):
        libc.prctl(_DROP_BOUND, number, 0, 0, 0)  # Fails without the right; nothing is lost then.
    call = _CAPSET.get(platform.machine())
    if call is not None:
        header = struct.pack("=Ii", 0x20080522, 0)
        if libc.syscall(call, header, bytes(24)) != 0:
            raise OSError(ctypes.get_errno(), "capset")


def _restrict_files(libc: ctypes.CDLL, program: str, files: Iterable[str]) -> None:
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    handled = _ACCESS_OF_VERSION[min(version, len(_ACCESS_OF_VERSION) - 1)]
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", handled, network, scopes)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    execute = _EXECUTE | _READ_FILE
    rules = [(path, execute | _READ_DIRECTORY) for path in _SYSTEM]
    rules += [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES]
    rules += [(path, _READ_FILE) for path in _FACTS]
    rules += [(program, execute)]
    rules += [(name[1:], _ACCESS[name[0]]) for name in files]
    for path, access in rules:
        _allow(libc, ruleset, path, access & handled)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.syscall(_RESTRICT, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, fd), 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock_add_rule: {path}")
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1:])
