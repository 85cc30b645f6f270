"""Description of the machine: numbers of different machines are not comparable."""

import os
import platform
from pathlib import Path

from cbtfs import __version__
from tools.bench.programs import PEERS, ROOT, run


def describe(folder: Path) -> dict[str, str]:
    """Return machine, kernel, file system of *folder* and the versions of all programs."""
    description = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "file system": run(["stat", "--file-system", "--format=%T", folder]).output.strip(),
        "load at start": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "cbtfs": f"{__version__} ({_commit()})",
    }
    for name, arguments in PEERS.items():
        description[name] = _version(run([name, *arguments]).output)
    return description


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    return run(["git", "-C", ROOT, "describe", "--always", "--dirty"]).output.strip()


def _version(text: str) -> str:
    """Return the first word with a digit and a dot."""
    words = text.replace(",", " ").split()
    return next((w.strip("*v") for w in words if "." in w and any(map(str.isdigit, w))), "unknown")


def drop_pages(path: Path) -> None:
    """Drop the cached pages of one file; lower layers keep their caches."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def drop_caches() -> None:
    """Write dirty pages and drop the caches of the kernel."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
