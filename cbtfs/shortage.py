"""Shortage of descriptors, memory or processes: the limit that was reached, and how to raise it.

Such a failure proves nothing about the file that could not be opened, and never counts as damage.
"""

import errno
import resource
from pathlib import Path
from typing import Final

from cbtfs.errors import OutOfResources

SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def refuse_shortage(exc: OSError, what: str) -> None:
    """Raise OutOfResources if *exc* reports that a limit was reached."""
    if exc.errno in SHORTAGES:
        raise OutOfResources(f"{what}: {explain(exc.errno)}") from exc


def explain(number: int | None) -> str:
    """Return the meaning of a shortage, with the limit and the remedy; *number* is its errno."""
    if number == errno.EMFILE:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many open files: this process may have {soft} (RLIMIT_NOFILE, at most {hard}); "
            "raise it with 'ulimit -n' or LimitNOFILE="
        )
    if number == errno.ENFILE:
        return (
            f"too many open files on this machine, which may have {_files_of_the_system()}; raise "
            "the sysctl fs.file-max"
        )
    return (
        f"out of memory: {_memory_limit()}; raise it, or end other processes, and run the "
        "command again"
    )


def _files_of_the_system() -> str:
    try:
        return Path("/proc/sys/fs/file-max").read_text().strip()
    except OSError:
        return "a limited number"


def _memory_limit() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        return f"this process may have {soft} bytes of address space (RLIMIT_AS, 'ulimit -v')"
    return "the machine, or the control group of this process, has no more"
