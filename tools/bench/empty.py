"""A pyfuse3 file system with one file of zeros: the cost of FUSE and Python without any disk.

The mount has as many workers as that of cbtfs. They take turns at the device, because otherwise
they block each other. The handler answers a request itself, without a thread: no faster method with
pyfuse3 is known.
"""

import fcntl
import os
import stat
import struct
import sys
from typing import Final

import pyfuse3
import trio

from tools.bench.turns import SharedTurn, install

_NAME: Final = b"disk.raw"
_FILE: Final = 2
_CLONE: Final = 0x8004E500  # FUSE_DEV_IOC_CLONE of linux/fuse.h
_LARGEST_READ: Final = 1 << 20
_HOUR: Final = 3600


class _Empty(pyfuse3.Operations):
    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._zeros = memoryview(bytes(_LARGEST_READ))
        self.greeting: trio.CancelScope | None = None
        self.turn: SharedTurn

    def init(self) -> None:
        if self.greeting is not None:
            self.greeting.cancel()

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.attr_timeout = attributes.entry_timeout = _HOUR
        attributes.st_mode = stat.S_IFREG | 0o400 if inode == _FILE else stat.S_IFDIR | 0o500
        attributes.st_size = self._size if inode == _FILE else 0
        return attributes

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self.turn.end()
        if name != _NAME:
            raise pyfuse3.FUSEError(2)
        return self._attributes(_FILE)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        self.turn.end()
        return self._attributes(inode)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        self.turn.end()
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        self.turn.end()
        return self._zeros[: min(size, self._size - off)]  # type: ignore[return-value]


async def _greet(file_system: _Empty) -> None:
    """Answer the first request of the kernel before the workers are forked."""
    with trio.CancelScope() as file_system.greeting:
        await pyfuse3.main()


def _device() -> int:
    descriptors = (int(name) for name in os.listdir("/proc/self/fd"))
    return next(fd for fd in descriptors if os.readlink(f"/proc/self/fd/{fd}") == "/dev/fuse")


def _serve(file_system: _Empty, fd: int, taken: int) -> None:
    clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(clone, _CLONE, struct.pack("I", fd))
    os.dup2(clone, fd, inheritable=False)
    os.close(clone)
    # Open the file again: a lock of flock(2) belongs to the open file description.
    file_system.turn = SharedTurn(os.open(f"/proc/self/fd/{taken}", os.O_RDWR | os.O_CLOEXEC))
    install(file_system.turn.wait_readable)
    trio.run(pyfuse3.main)


def main(size: int, workers: int, mountpoint: str) -> None:
    """Serve until unmounted; print `ready` once the mount is usable."""
    file_system = _Empty(size)
    pyfuse3.init(file_system, mountpoint, {"default_permissions", "ro", "fsname=empty"})
    trio.run(_greet, file_system)
    fd, taken = _device(), os.memfd_create("turns", os.MFD_CLOEXEC)
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            try:
                _serve(file_system, fd, taken)
            finally:
                os._exit(0)
        children.append(child)
    print("ready", flush=True)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
