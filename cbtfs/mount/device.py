"""The FUSE device of one worker: threads answer reads and seeks, pyfuse3 all other requests.

Compiled code reads the device. It answers a read without Python if it knows the leaves of the
file, and a seek if it knows the map; otherwise Fallback prepares or answers the request in the same
thread. All other requests go through a socket that replaces pyfuse3's device, and the replies
return through it.
"""

import fcntl
import os
import socket
import struct
from typing import Final, Protocol

import pyfuse3
import trio

from cbtfs.mount.errnos import errno_of
from cbtfs.mount.permission import DEVICE
from cbtfs.native import Chunks, Requests

_CLONE: Final = 0x8004E500  # FUSE_DEV_IOC_CLONE of linux/fuse.h
THREADS: Final = 4
"""Reads of one worker that can wait for the disk, or be decoded on other cores, at a time."""
_MESSAGE_BYTES: Final = 128 << 10
"""Socket buffer for the longest message, a listing of 64 KiB; system defaults differ."""


class Fallback(Protocol):
    """Answers the requests that compiled code cannot answer. The methods may block."""

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        """Provide the leaves of a read to Requests. Return False if only read() can answer it."""

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview: ...
    def prepare_seek(self, inode: int, offset: int) -> int | None:
        """Provide the data map at *offset* to Requests, or return the size of a dense file."""


class Device:
    """A clone of the FUSE device for the calling process. *fd* is pyfuse3's descriptor."""

    def __init__(self, fd: int, chunks: Chunks) -> None:
        # A clone has its own queue: if this process dies, the requests that it has read fail.
        clone = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(clone, _CLONE, struct.pack("I", fd))
        self._session, pyfuse3_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._session, pyfuse3_end):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
        os.dup2(pyfuse3_end.fileno(), fd, inheritable=False)
        pyfuse3_end.close()
        self.requests = Requests(clone, self._session.fileno(), chunks)

    async def serve(self, fallback: Fallback) -> None:
        """Answer requests until the file system is unmounted."""

        def prepare(inode: int, offset: int, length: int) -> bool:
            try:
                return fallback.prepare(inode, offset, length)
            except Exception:
                return False  # read() fails as well, and its error is logged

        def read(inode: int, offset: int, length: int) -> bytes | memoryview | int:
            try:
                return fallback.read(inode, offset, length)
            except Exception as exc:
                return errno_of(exc)

        def prepare_seek(inode: int, offset: int) -> int | None:
            try:
                return fallback.prepare_seek(inode, offset)
            except Exception as exc:
                return -errno_of(exc)

        async def answer() -> None:
            await trio.to_thread.run_sync(
                self.requests.serve,
                *(prepare, read, prepare_seek),
                abandon_on_cancel=True,
                limiter=threads,
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
