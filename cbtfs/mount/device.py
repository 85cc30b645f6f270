"""The kernel's requests of one worker: reads are answered by threads, the rest goes to pyfuse3.

What is compiled reads the device. A read of a file that it knows never meets Python; one that it
does not is prepared or answered by Backend, in the same thread. Everything else goes through a
socket that pyfuse3 has in place of the device, and the replies come back through it.
"""

import fcntl
import os
import socket
import struct
from typing import Final, Protocol

import pyfuse3
import trio

from cbtfs.mount.errnos import errno_of
from cbtfs.mount.mountpoint import DEVICE
from cbtfs.native import Chunks, Requests

_CLONE: Final = 0x8004E500  # FUSE_DEV_IOC_CLONE of linux/fuse.h
THREADS: Final = 4
"""ReadFallback of one worker that may wait for the disk at a time, or be decoded on other cores."""


_MESSAGE_BYTES: Final = 128 << 10
"""Room for the longest message, a listing of 64 KiB, whatever the system's default is."""


class ReadFallback(Protocol):
    """Who answers the reads that compiled code cannot; both calls may block."""

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        """Make known to Requests what a read takes; False if only read() can answer it."""

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview: ...


class Device:
    """The device's requests, for the process that made it; *fd* is pyfuse3's descriptor of it."""

    def __init__(self, fd: int, chunks: Chunks) -> None:
        # A clone has a queue of its own: when this process dies, what it had read fails at once.
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, _CLONE, struct.pack("I", fd))
        self._session, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self._session, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
        os.dup2(theirs.fileno(), fd, inheritable=False)
        theirs.close()
        self.requests = Requests(device, self._session.fileno(), chunks)

    async def serve(self, reads: ReadFallback) -> None:
        """Answer requests until the file system is unmounted."""

        def prepare(inode: int, offset: int, length: int) -> bool:
            try:
                return reads.prepare(inode, offset, length)
            except Exception:
                return False  # read() fails, too, and that is told

        def read(inode: int, offset: int, length: int) -> bytes | memoryview | int:
            try:
                return reads.read(inode, offset, length)
            except Exception as exc:
                return errno_of(exc)

        async def answer() -> None:
            await trio.to_thread.run_sync(
                self.requests.serve, prepare, read, abandon_on_cancel=True, limiter=threads
            )
            nursery.cancel_scope.cancel()

        threads = trio.CapacityLimiter(THREADS + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            for _ in range(THREADS):
                nursery.start_soon(answer)
            await trio.to_thread.run_sync(
                self.requests.forward_replies, abandon_on_cancel=True, limiter=threads
            )
