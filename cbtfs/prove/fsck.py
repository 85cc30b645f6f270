"""Level 3: the check of each file system by its own program, after a recovery of its journal.

A file system that a running guest used is consistent only after its journal is replayed, as the
guest's next start does. That happens in an image over the point, which does not change.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.prove import xfs_log
from cbtfs.prove.confined import Confinement
from cbtfs.prove.part import Part, Untestable
from cbtfs.prove.scratch import scratch_copy
from cbtfs.prove.tool import Ran, find_tool, run_tool
from cbtfs.prove.volumes import Volume
from cbtfs.volumes.superblocks import dirty_flag_of_fat

_SECONDS: Final = 4 * 3600.0
"""Maximum time for one program: fsck of a large file system takes hours."""

_DIRTY_LOG: Final = "valuable metadata changes in a log"
"""Text of xfs_repair -n, which then checks the file system without its log."""


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the volumes of one point."""

    folder: Path
    """Directory of the point in a mount."""
    stop: threading.Event

    def check(self, volume: Volume) -> Part:
        """Return the result of a volume.

        Raises:
            Stopped: the command ends.
        """
        content = volume.content
        if content is None or content.is_opaque:
            result = "untested" if content is not None and content.kind == "crypt" else "nothing"
            text = "unknown content" if content is None else content.kind
            return Part(volume.name, 3, result, text)  # type: ignore[arg-type]
        path = self.folder.joinpath(*volume.path)
        try:
            if content.devices > 1:
                raise Untestable(f"it spans {content.devices} devices")
            failure = _CHECKS[content.kind](self, volume, path)
        except Untestable as exc:
            return Part(volume.name, 3, "untested", str(exc))
        replayed = " after a recovery" if content.needs_replay else ""
        if failure is not None:
            return Part(volume.name, 3, "failed", f"{content.kind}{replayed}: {failure}")
        return Part(volume.name, 3, "passed", f"{content.kind}{replayed}")

    def run(self, command: Sequence[str | Path]) -> Ran:
        """Run a program in a sandbox; its last argument is the file that it may read."""
        return run_tool(command, self.stop, _SECONDS, Confinement([Path(command[-1])]))

    def ext(self, volume: Volume, path: Path) -> str | None:
        e2fsck = find_tool("e2fsck", "e2fsprogs")
        if volume.content is None or not volume.content.needs_replay:
            return _e2fsck(self.run([e2fsck, "-fn", path]))
        with scratch_copy(path, volume.size) as scratch:
            writing = Confinement(writable=[scratch])
            replay: list[str | Path] = [e2fsck, "-y", "-E", "journal_only", scratch]
            replayed = run_tool(replay, self.stop, _SECONDS, writing)
            if replayed.code not in (0, 1):
                return f"its journal cannot be replayed: {_last(replayed)}"
            return _e2fsck(self.run([e2fsck, "-fn", scratch]))

    def xfs(self, volume: Volume, path: Path) -> str | None:
        repair = find_tool("xfs_repair", "xfsprogs")
        done = self.run([repair, "-n", path])
        if _DIRTY_LOG not in done.output:
            return _plain(done)
        with scratch_copy(path, volume.size) as scratch:
            failure = xfs_log.replay(scratch, self.stop, _SECONDS)
            return failure or _plain(self.run([repair, "-n", scratch]))

    def btrfs(self, volume: Volume, path: Path) -> str | None:
        btrfs = find_tool("btrfs", "btrfs-progs")
        return _plain(self.run([btrfs, "check", "--readonly", path]))

    def ntfs(self, volume: Volume, path: Path) -> str | None:
        return _plain(self.run([find_tool("ntfsfix", "ntfs-3g"), "--no-action", path]))

    def vfat(self, volume: Volume, path: Path) -> str | None:
        fsck = find_tool("fsck.vfat", "dosfstools")
        if volume.content is None or not volume.content.needs_replay:
            return _plain(self.run([fsck, "-n", path]))
        with scratch_copy(path, volume.size) as scratch:
            _clear_dirty_flag(scratch)
            return _plain(self.run([fsck, "-n", scratch]))

    def exfat(self, volume: Volume, path: Path) -> str | None:
        return _plain(self.run([find_tool("fsck.exfat", "exfatprogs"), "-n", path]))


_CHECKS: Final[Mapping[str, Callable[[Checker, Volume, Path], str | None]]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), Checker.ext),
    "xfs": Checker.xfs,
    "btrfs": Checker.btrfs,
    "ntfs": Checker.ntfs,
    "vfat": Checker.vfat,
    "exfat": Checker.exfat,
}


def _e2fsck(ran: Ran) -> str | None:
    """Return what e2fsck found. Its exit code is a sum: 4 is errors, 8 and more are others."""
    if ran.code == 0:
        return None
    if ran.code < 0 or (ran.code >= 8 and not ran.code & 4):
        return f"e2fsck ended with {ran.code}: {_last(ran)}"
    problems = [line for line in ran.lines if not line.startswith(("Pass ", "e2fsck ", "*****"))]
    return f"e2fsck: {problems[0] if problems else _last(ran)}"


def _plain(ran: Ran) -> str | None:
    return None if ran.code == 0 else f"exit code {ran.code}: {_last(ran)}"


def _last(ran: Ran) -> str:
    return ran.lines[-1] if ran.lines else f"no output, exit code {ran.code}"


def _clear_dirty_flag(path: Path) -> None:
    """Clear the flag that a mounted FAT has, as the guest's next start does."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:

        class _File:
            size = os.fstat(fd).st_size

            def read(self, offset: int, length: int) -> bytes:
                return os.pread(fd, length, offset)

        at = dirty_flag_of_fat(_File())
        (flags,) = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([flags & ~1]), at)
    finally:
        os.close(fd)
