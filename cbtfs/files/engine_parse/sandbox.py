"""The sandbox of a parser: a seccomp filter and limits; it cannot be left.

After enter() the process can read and write its open descriptors, use memory, and end. It cannot
open a file, make a socket, start a program or make memory executable. All this works for any user.

Sources: seccomp(2), Linux, include/uapi/linux/{audit,bpf_common,seccomp}.h, and the tables of
system calls of both architectures.
"""

import ctypes
import platform
import resource
import struct
from collections.abc import Sequence
from typing import Final

MEMORY_BYTES: Final = 1 << 30
"""Limit of the address space."""
CPU_SECONDS: Final = 4 * 3600
"""Limit of the processor time of one child; the parent limits the time of each call."""

_SET_NO_NEW_PRIVS: Final = 38
_SET_SECCOMP: Final = 22
_SET_PDEATHSIG: Final = 1
_SET_DUMPABLE: Final = 4
_FILTER: Final = 2
_SIGKILL: Final = 9
_LOAD: Final = 0x20
"""BPF_LD | BPF_W | BPF_ABS."""
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_SET: Final = 0x45
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_NOT_PERMITTED: Final = 0x00050001
"""SECCOMP_RET_ERRNO with EPERM."""
_NOT_IMPLEMENTED: Final = 0x00050026
"""SECCOMP_RET_ERRNO with ENOSYS."""
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16
_THIRD_ARGUMENT_AT: Final = 32
_PROT_EXEC: Final = 4
_X32: Final = 0x40000000
"""Bit of the numbers of another interface of x86-64."""

_ALLOWED: Final = {
    # read write close poll munmap brk rt_sigaction rt_sigprocmask rt_sigreturn select sched_yield
    # mremap madvise getpid sendto recvfrom sendmsg recvmsg exit gettimeofday sigaltstack gettid
    # futex restart_syscall clock_gettime clock_nanosleep exit_group pselect6 ppoll getrandom rseq
    "x86_64": (
        *(0, 1, 3, 7, 11, 12, 13, 14, 15, 23, 24, 25, 28, 39, 44, 45, 46, 47, 60, 96, 131, 186),
        *(202, 219, 228, 230, 231, 270, 271, 318, 334),
    ),
    "aarch64": (
        *(63, 64, 57, 215, 214, 134, 135, 139, 124, 216, 233, 172, 206, 207, 211, 212, 93, 169),
        *(132, 178, 98, 128, 113, 115, 94, 72, 73, 278, 293),
    ),
}
_MAPPING: Final = {"x86_64": (9, 10), "aarch64": (222, 226)}
"""mmap and mprotect: allowed without PROT_EXEC."""
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE3: Final = 435
_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: the flags of clone()."""
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def is_supported() -> bool:
    """Return whether there is a filter for this machine."""
    return platform.machine() in _ALLOWED


def enter() -> None:
    """Confine this process, which has one thread, until its end.

    Raises:
        OSError: the kernel refused; the process must not parse.
    """
    machine = platform.machine()
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _control(libc, _SET_PDEATHSIG, _SIGKILL)
    _control(libc, _SET_DUMPABLE, 0)
    install(program(machine))


def install(code: bytes) -> None:
    """Apply a filter to this process, which has one thread, and to the programs that it runs.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _control(libc, _SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _control(libc, _SET_SECCOMP, _FILTER, ctypes.c_char_p(header))


def _control(libc: ctypes.CDLL, option: int, value: int, pointer: object = 0) -> None:
    if libc.prctl(option, value, pointer, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option})")


def program(machine: str) -> bytes:
    """Return the filter for a machine."""
    allowed, mapping = _ALLOWED[machine], _MAPPING[machine]
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURE[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for number in allowed:
        code += [_instruction(_JUMP_IF_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    first, second = mapping
    code += [
        _instruction(_JUMP_IF_EQUAL, first, 1, 0),
        _instruction(_JUMP_IF_EQUAL, second, 0, 3),
        _instruction(_LOAD, _THIRD_ARGUMENT_AT),
        _instruction(_JUMP_IF_SET, _PROT_EXEC, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _NOT_PERMITTED),
    ]
    return b"".join(code)


def denying(machine: str, denied: Sequence[int]) -> bytes:
    """Return a filter that allows all system calls of a machine but those with *denied* numbers.

    It also denies namespaces, in which a process would have capabilities. clone3() has its flags in
    memory, where a filter cannot see them; without it, libraries use clone().
    """
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURE[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_JUMP_IF_SET, _X32, 0, 1),
        _instruction(_RETURN, _KILL),
        _instruction(_JUMP_IF_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, _NOT_IMPLEMENTED),
    ]
    for number in denied:
        code += [_instruction(_JUMP_IF_EQUAL, number, 0, 1), _instruction(_RETURN, _NOT_PERMITTED)]
    code += [
        _instruction(_JUMP_IF_EQUAL, _CLONE[machine], 0, 3),
        _instruction(_LOAD, _FIRST_ARGUMENT_AT),
        _instruction(_JUMP_IF_SET, _NEW_NAMESPACES, 0, 1),
        _instruction(_RETURN, _NOT_PERMITTED),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
