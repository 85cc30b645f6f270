"""Run a program that checks a file system in a sandbox: `python -m cbtfs.prove.confined`.

The content of the file system is hostile. The program, and those that it starts, have no network,
no capabilities and no new privileges, bounded memory and processor time, and access only to the
programs and libraries of the system and to the files that are named. A kernel without Landlock does
not limit the access to files. All this works for any user.

Sources: landlock(7), capset(2), seccomp(2), and the tables of system calls of both architectures.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.files.engine_parse import sandbox

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
_DENIED: Final = {
    # socket connect socketpair kill ptrace mknod pivot_root mount umount2 swapon reboot init_module
    # tkill rt_sigqueueinfo add_key request_key keyctl mknodat unshare rt_tgsigqueueinfo
    # perf_event_open open_by_handle_at setns process_vm_readv process_vm_writev finit_module
    # kexec_load bpf userfaultfd pidfd_send_signal io_uring_setup open_tree move_mount fsopen
    # pidfd_getfd
    "x86_64": (
        *(41, 42, 53, 62, 101, 133, 155, 165, 166, 167, 169, 175, 200, 129, 248, 249, 250, 259),
        *(272, 297, 298, 304, 308, 310, 311, 313, 246, 321, 323, 424, 425, 428, 429, 430, 438),
    ),
    "aarch64": (
        *(198, 203, 199, 129, 117, 41, 40, 39, 224, 142, 105, 130, 138, 217, 218, 219, 33, 97, 240),
        *(241, 265, 268, 270, 271, 273, 104, 280, 282, 424, 425, 428, 429, 430, 438),
    ),
}


@dataclass(frozen=True, slots=True)
class Confinement:
    """The files that a program may access beside those of the system."""

    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    seconds: float = 4 * 3600.0
    """Limit of its processor time, and of that of each program that it starts."""

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the module and its arguments that run *command* in the sandbox."""
        files = [f"r{path}" for path in self.readable] + [f"w{path}" for path in self.writable]
        limits = [str(os.getpid()), str(int(self.seconds)), str(len(files))]
        return [_MODULE, *limits, *files, *command]


def main(arguments: Sequence[str]) -> None:
    """Confine this process, and execute the program of the arguments; see Confinement.command()."""
    parent, seconds, count = map(int, arguments[:3])
    files, command = arguments[3 : 3 + count], arguments[3 + count :]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    _limit(seconds)
    _drop_capabilities(libc)
    _restrict_files(libc, command[0], files)
    denied = _DENIED.get(platform.machine())
    if denied is not None:
        sandbox.install(sandbox.denying(platform.machine(), denied))
    os.execv(command[0], list(command))


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
    for name in files:
        write = _WRITE_FILE | _TRUNCATE if name[0] == "w" else 0
        rules.append((name[1:], _READ_FILE | write))
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
