"""File systems in a file: their power is cut, or they are full. As root, with loop devices."""

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
"""FS_SHUTDOWN_FLAGS_NOLOGFLUSH: what is neither on the disk nor flushed is gone."""
_TRIES: Final = 600
_PAUSE_SECONDS: Final = 0.05
_MAKE: Final = {"ext4": ["mkfs.ext4", "-qF", "-m0"], "xfs": ["mkfs.xfs", "-qf"]}


class LoopDisk:
    """One file system, mounted at *mountpoint*."""

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
        """Lose everything that was not flushed; only unmount() is of use afterwards."""
        fd = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _DROP)
        finally:
            os.close(fd)

    def power_up(self) -> None:
        """Mount it anew; who copied the mounts meanwhile keeps the dead one alive for a while."""
        for _ in range(_TRIES):
            self.unmount()
            self.mount()
            with contextlib.suppress(OSError):
                probe = self.mountpoint / "probe"
                probe.touch()
                probe.unlink()
                return
            time.sleep(_PAUSE_SECONDS)
        raise OSError(f"{self.mountpoint} does not come up again")


@contextmanager
def loop_disk(folder: Path, kind: FileSystem, size: int) -> Iterator[LoopDisk]:
    """A new file system, unmounted at the end."""
    disk = LoopDisk(folder, kind, size)
    try:
        yield disk
    finally:
        disk.unmount()
