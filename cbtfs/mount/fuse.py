"""Translate FUSE requests to calls by inode number, and results to attributes and errnos.

Reads do not pass here: see device.py.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

import pyfuse3
import trio

from cbtfs.mount.entry import Entry, EntryType
from cbtfs.mount.errnos import errno_of
from cbtfs.mount.guest_numbers import is_guest

VOLATILE_SECONDS: Final = 0.5
"""Seconds that the kernel caches a name or attributes that can change."""
PERMANENT_SECONDS: Final = 3600
"""Seconds that the kernel caches a name or attributes that never change."""
_THREADS: Final = 8
"""Requests of one worker, except reads, that can wait for the disk at a time."""
_NAME_BYTES: Final = 255
_MODES: Final = {
    EntryType.DIRECTORY: stat.S_IFDIR | 0o500,
    EntryType.FILE: stat.S_IFREG | 0o400,
    EntryType.LINK: stat.S_IFLNK | 0o777,
    EntryType.FIFO: stat.S_IFIFO | 0o400,
    EntryType.SOCKET: stat.S_IFSOCK | 0o400,
}

Value = TypeVar("Value")
Arguments = TypeVarTuple("Arguments")


def _text(name: bytes) -> str:
    return os.fsdecode(name)


def _attribute_seconds(entry: Entry) -> float:
    """Return how long attributes are cached: 0 for vm.json, whose size must match its content."""
    if entry.is_content_permanent:
        return PERMANENT_SECONDS
    return 0 if entry.type is EntryType.FILE or entry.is_volatile else VOLATILE_SECONDS


def _name_seconds(entry: Entry) -> float:
    """Return how long a name is cached."""
    if entry.is_volatile:
        return 0
    return PERMANENT_SECONDS if entry.is_name_permanent else VOLATILE_SECONDS


class Backend(Protocol):
    """A file system by inode number: FileSystem, or a wrapper. Each method may block."""

    def lookup(self, parent: int, name: str) -> Entry | None: ...
    def entry(self, inode: int) -> Entry: ...
    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]: ...
    @property
    def target(self) -> Callable[[int], str]: ...
    def open(self, inode: int) -> Entry: ...
    def close(self, inode: int) -> None: ...


class FuseOperations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls. Call serve() before the first request other than INIT."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self.is_initialised = False
        self._owner = os.getuid(), os.getgid()
        self._file_system: Backend
        self._threads: trio.CapacityLimiter
        self._engine_threads: trio.CapacityLimiter

    def init(self) -> None:
        self.is_initialised = True

    def serve(self, file_system: Backend) -> None:
        """Answer requests from *file_system*."""
        self._file_system = file_system
        self._threads = trio.CapacityLimiter(_THREADS)
        self._engine_threads = trio.CapacityLimiter(_THREADS)

    @contextmanager
    def _errnos(self) -> Iterator[None]:
        """Convert exceptions to FUSEError: pyfuse3 ends the whole mount at any other exception."""
        try:
            yield
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            raise pyfuse3.FUSEError(errno_of(exc)) from exc

    async def _run(self, call: Callable[[*Arguments], Value], *arguments: *Arguments) -> Value:
        # An engine that hangs must not delay requests for other files.
        inode: object = next(iter(arguments), None)
        is_for_engine = isinstance(inode, int) and is_guest(inode)
        limiter = self._engine_threads if is_for_engine else self._threads
        return await trio.to_thread.run_sync(call, *arguments, limiter=limiter)

    def _attributes(self, entry: Entry) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = entry.inode
        attributes.entry_timeout = _name_seconds(entry)
        attributes.attr_timeout = _attribute_seconds(entry)
        attributes.st_mode = _MODES[entry.type]
        attributes.st_uid, attributes.st_gid = self._owner
        attributes.st_size = entry.size
        attributes.st_blocks = -(-entry.allocated_bytes // 512)
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = entry.time_ns
        if entry.facts is not None:
            # Other users may not read what a mode of the guest would let them read.
            attributes.st_mode |= entry.facts.mode & stat.S_IXUSR
            attributes.st_nlink = max(entry.facts.links, 1)
            attributes.st_atime_ns = entry.facts.accessed_ns
            attributes.st_ctime_ns = entry.facts.changed_ns
        return attributes

    # Names

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._errnos():
            entry = await self._run(self._file_system.lookup, parent_inode, _text(name))
            if entry is None:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return self._attributes(entry)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._errnos():
            return self._attributes(await self._run(self._file_system.entry, inode))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        with self._errnos():
            return os.fsencode(await self._run(self._file_system.target, inode))

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        with self._errnos():
            return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        with self._errnos():
            for entry, offset in await self._run(self._file_system.entries, fh, start_id):
                attributes = self._attributes(entry)
                if not pyfuse3.readdir_reply(token, os.fsencode(entry.name), attributes, offset):
                    break

    async def releasedir(self, fh: int) -> None:
        with self._errnos():
            pass

    async def forget(self, inode_list: Any) -> None:
        pass

    # Files

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        with self._errnos():
            if flags & os.O_ACCMODE != os.O_RDONLY:
                raise pyfuse3.FUSEError(errno.EROFS)
            entry = await self._run(self._file_system.open, inode)
            return pyfuse3.FileInfo(fh=inode, keep_cache=entry.is_content_permanent)

    async def fsync(self, fh: int, datasync: bool) -> None:
        with self._errnos():
            pass

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        with self._errnos():
            pass

    async def release(self, fh: int) -> None:
        with self._errnos():
            await self._run(self._file_system.close, fh)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        with self._errnos():
            statistics = pyfuse3.StatvfsData()
            statistics.f_bsize = statistics.f_frsize = 4096
            statistics.f_namemax = _NAME_BYTES
            return statistics

    # Changes. The mount is read-only, so the kernel rejects most of them itself.

    async def _refuse(self, *_: Any, **__: Any) -> Any:
        raise pyfuse3.FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    create = write = setxattr = removexattr = _refuse

    # Unsupported requests. ENOSYS keeps the kernel from asking again: `ls -l` would for each file.

    async def _not_supported(self, *_: Any, **__: Any) -> Any:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    flush = listxattr = getxattr = _not_supported
