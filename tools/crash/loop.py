"""File systems on loop devices, for power cuts and full disks. Requires root."""

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

FileSystem = Literal["ext4", "xfs"]

_SHUTDOWN: Final = 0x8004587D
"""FS_IOC_SHUTDOWN (linux/fs.h)."""
_DROP: Final = (2).to_bytes(4, "little")
"""FS_SHUTDOWN_FLAGS_NOLOGFLUSH: drop all data that is not on the disk, the journal included."""
_TRIES: Final = 600
_PAUSE_SECONDS: Final = 0.05
_MAKE: Final = {"ext4": ["mkfs.ext4", "-qF", "-m0"], "xfs": ["mkfs.xfs", "-qf"]}


class LoopDisk:
    """A file system on a loop device, mounted at *mountpoint*."""

    def __init__(self, folder: Path, kind: FileSystem, size: int) -> None:
        self._image = folder / f"{kind}.img"
        self.mountpoint = folder / f"{kind}.mnt"
        self.mountpoint.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size)
        subprocess.run([*_MAKE[kind], self._image], check=True, stdout=subprocess.DEVNULL)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.mountpoint], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mountpoint], check=True)

    def cut_power(self) -> None:
        """Drop all data that was not flushed; afterwards only unmount() succeeds."""
        fd = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _DROP)
        finally:
            os.close(fd)

    def power_up(self) -> None:
        """Mount the file system again.

        Retries, because a process that copied the mount namespace may keep the old mount busy.
        """
        for _ in range(_TRIES):
            self.unmount()
            self.mount()
            with contextlib.suppress(OSError):
                probe = self.mountpoint / "probe"
                probe.touch()
                probe.unlink()
                return
            time.sleep(_PAUSE_SECONDS)
        raise OSError(f"{self.mountpoint} cannot be mounted again")


@contextmanager
def loop_disk(folder: Path, kind: FileSystem, size: int) -> Iterator[LoopDisk]:
    """Create and mount a file system; unmount it afterwards."""
    disk = LoopDisk(folder, kind, size)
    try:
        yield disk
    finally:
        disk.unmount()
