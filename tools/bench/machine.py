"""Where a bench ran, so that nobody compares its numbers with another machine's."""

import os
import platform
from pathlib import Path

from cbtfs import __version__
from tools.bench.programs import PEERS, ROOT, run


def describe(folder: Path) -> dict[str, str]:
    """Machine, kernel, file system under *folder*, and the version of everything that runs."""
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "file system": run(["stat", "--file-system", "--format=%T", folder]).output.strip(),
        "load at start": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "cbtfs": f"{__version__} ({_commit()})",
    }
    for name, arguments in PEERS.items():
        found[name] = _version(run([name, *arguments]).output)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    return run(["git", "-C", ROOT, "describe", "--always", "--dirty"]).output.strip()


def _version(text: str) -> str:
    """The first word with a number and a dot."""
    words = text.replace(",", " ").split()
    return next((w.strip("*v") for w in words if "." in w and any(map(str.isdigit, w))), "unknown")


def drop_pages(path: Path) -> None:
    """Drop what the kernel keeps of one file; what lies below the file stays."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def drop_caches() -> None:
    """Write out what is dirty and empty the kernel's caches."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
