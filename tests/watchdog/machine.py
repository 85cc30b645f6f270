"""Processes, mounts and FUSE connections of a test session, as the kernel lists them."""

import contextlib
import ctypes
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_MNT_DETACH: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat; *start* is in seconds of CLOCK_BOOTTIME."""

    pid: int
    parent: int
    state: str
    start: float
    name: str

    @property
    def is_running(self) -> bool:
        return self.state not in "ZX"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo; *minor* is the number of a FUSE connection."""

    id: int
    minor: int
    place: str
    kind: str
    source: str

    @property
    def is_fuse(self) -> bool:
        return self.kind.split(".")[0] in ("fuse", "fuseblk")


def now() -> float:
    """Seconds of the clock that start times of processes are in, rounded down like those."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS) / _TICKS


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent ends (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[Process]:
    """All processes below *root*, parents first; zombies included."""
    children: dict[int, list[Process]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    processes = list(children.get(root, ()))
    for process in processes:  # grows while it is walked
        processes += children.get(process.pid, ())
    return processes


def mounts(pid: int | str = "self") -> list[Mount]:
    """The mounts that the process *pid* sees; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [_mount(line) for line in lines]


def have_own_mounts() -> bool:
    """Move to a new mount namespace without FUSE and loop mounts; return whether that worked.

    Mounts of the new namespace appear nowhere else and end with the last process. Copies of other
    mounts would keep their file systems alive after their owners unmount them.
    """
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        return False
    if _LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    for mount in reversed(mounts()):
        if mount.is_fuse or mount.source.startswith("/dev/loop"):
            detach(mount.place)
    return True


def detach(place: str) -> None:
    """Unmount lazily; no error if nothing is mounted there."""
    _LIBC.umount2(os.fsencode(place), _MNT_DETACH)


def abort_fuse(minors: set[int]) -> None:
    """Abort FUSE connections: each request in flight, and each later one, fails."""
    if not minors:
        return
    with _connections() as folder:
        for minor in minors:
            with contextlib.suppress(OSError):  # it may have ended by itself
                (folder / str(minor) / "abort").write_text("1")


def kill(processes: list[Process]) -> None:
    """Send SIGKILL; a process that has ended meanwhile is fine."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def command(pid: int) -> str:
    """The command line of a process, for messages."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return b" ".join(words).decode(errors="replace").strip()[:200]


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _processes() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            line = Path(f"/proc/{entry}/stat").read_text(errors="replace")
        except OSError:
            continue  # ended
        name, _, rest = line.partition("(")[2].rpartition(")")
        words = rest.split()
        yield Process(int(entry), int(words[1]), words[0], int(words[19]) / _TICKS, name)


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    words, (kind, source) = before.split(" "), after.split(" ")[:2]
    place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
    return Mount(int(words[0]), int(words[2].partition(":")[2]), place, kind, source)


@contextlib.contextmanager
def _connections() -> Iterator[Path]:
    """The control file system of FUSE; mounted for the moment where it is not."""
    if any(mount.kind == "fusectl" for mount in mounts()):
        yield _CONNECTIONS
        return
    with tempfile.TemporaryDirectory() as folder:
        _LIBC.mount(b"fusectl", os.fsencode(folder), b"fusectl", 0, None)
        try:
            yield Path(folder)
        finally:
            detach(folder)
