"""Local copies of parts of objects: sparse files in extents of 1 MiB, bounded in size.

`ab/<name>` has the bytes, `ab/<name>.map` says which extents are there. Several processes share the
files without a lock for each extent: the entry of an extent is one write of 8 bytes, made after
the bytes. An open file has a shared flock, so that another process does not evict it.

Nothing is flushed. After a crash of the machine, an entry may be on the disk without its bytes, so
entries have CRCs, and a file is verified when it is first opened after a boot. Whatever the tier
returns, its reader verifies (store/pack, native/frame.c), and fetches it again if it is damaged.
"""

import errno
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.native import PackFile
from cbtfs.store.backend.base import Buffers
from cbtfs.store.files import read_into

log = logging.getLogger(__name__)

EXTENT: Final = 1 << 20
"""Bytes of an extent; EXTENT_BYTES in native/pack_file.h."""
DEFAULT_LIMIT: Final = 20 << 30
_MAP_SUFFIX: Final = ".map"
_MAGIC: Final = b"cbtftier"
_HEADER: Final = struct.Struct("<8sQQ16sQ")
"""Magic, size of the object, inode number of the file, boot id, 1 if the object is pinned."""
_ENTRY: Final = struct.Struct("<Q")
_FLOCK: Final = struct.Struct("hhqqi")
"""struct flock: kind, whence, start, length, and no process."""
_PRESENT: Final = 1 << 32
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_KEPT: Final = 0.9
"""Share of the limit that stays when space is made."""
_TOUCH_SECONDS: Final = 60.0
"""A file that is used is marked so at most this often."""
_LOCK_SECONDS: Final = 30.0
"""After this wait for another process, an extent is fetched twice."""
_POLL_SECONDS: Final = 0.01
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class TierFile:
    """The copy of one object, open until its last reference is dropped."""

    def __init__(self, path: Path, size: int, boot: bytes) -> None:
        self.size = size
        self._path = path
        fd = _open_locked(path)
        self.file = PackFile(fd, is_partial=True)
        """Owns the descriptor of the bytes."""
        self._map = os.open(_map_path(path), _FLAGS, 0o600)
        self._extents = -(-size // EXTENT)
        self._touched = time.monotonic()
        inode = os.fstat(fd).st_ino
        header = os.pread(self._map, _HEADER.size, 0)
        expected = _HEADER.size + _ENTRY.size * self._extents
        fields = _HEADER.unpack(header) if len(header) == _HEADER.size else None
        is_known = (
            fields is not None
            and fields[:3] == (_MAGIC, size, inode)
            and os.fstat(self._map).st_size == expected
        )
        self._is_pinned = bool(fields[4]) if is_known and fields is not None else False
        if not is_known:
            os.ftruncate(self._map, 0)
            os.ftruncate(self._map, expected)
        os.ftruncate(fd, size)
        if fields is not None and is_known and fields[3] != boot:
            self._verify()
        if fields is None or not is_known or fields[3] != boot:
            header = _HEADER.pack(_MAGIC, size, inode, boot, self._is_pinned)
            os.pwrite(self._map, header, 0)
        os.utime(self._map)
        self.reload()

    def __del__(self) -> None:
        fd, self._map = getattr(self, "_map", -1), -1
        if fd >= 0:
            os.close(fd)

    def _verify(self) -> None:
        """Drop the entries of extents whose bytes have another CRC."""
        for extent, entry in enumerate(self._entries()):
            if entry & _PRESENT:
                data = os.pread(self.file.fileno(), EXTENT, extent * EXTENT)
                if entry != _PRESENT | zlib.crc32(data):
                    self._set(extent, 0)

    def _entries(self) -> tuple[int, ...]:
        data = os.pread(self._map, _ENTRY.size * self._extents, _HEADER.size)
        data = data.ljust(_ENTRY.size * self._extents, b"\0")
        return struct.unpack(f"<{self._extents}Q", data)

    def _set(self, extent: int, entry: int) -> None:
        os.pwrite(self._map, _ENTRY.pack(entry), _HEADER.size + _ENTRY.size * extent)

    def reload(self) -> None:
        """Learn of extents that other processes have stored."""
        for extent, entry in enumerate(self._entries()):
            if entry & _PRESENT:
                self.file.set_extents(extent, 1, True)

    def missing(self, offset: int, length: int) -> list[int]:
        """Return the extents of the bytes [offset, offset + length) that are not here."""
        end = min(offset + length, self.size)
        if offset >= end or self.file.has(offset, end - offset):
            self._touch()
            return []
        self.reload()
        wanted = range(offset // EXTENT, -(-end // EXTENT))
        return [extent for extent in wanted if not self.file.has(extent * EXTENT, 1)]

    def _touch(self) -> None:
        now = time.monotonic()
        if now - self._touched > _TOUCH_SECONDS:
            self._touched = now
            os.utime(self._map)

    @contextmanager
    def fetching(self, extent: int) -> Iterator[None]:
        """Hold the lock of an extent, so that one of several processes fetches it.

        The lock saves requests. Without it, two processes write the same bytes.
        """
        at = _HEADER.size + _ENTRY.size * extent
        is_locked = self._lock(at)
        try:
            yield
        finally:
            if is_locked:
                self._set_lock(fcntl.F_UNLCK, at)

    def _lock(self, at: int) -> bool:
        """Wait for a lock; False if its holder, which may be stopped, keeps it for long."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            with suppress(BlockingIOError, PermissionError):
                self._set_lock(fcntl.F_WRLCK, at)
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _set_lock(self, kind: int, at: int) -> None:
        fcntl.fcntl(self._map, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))

    def store(self, extent: int, data: bytes) -> None:
        """Keep the bytes of an extent; OSError if that fails."""
        written = 0
        while written < len(data):
            part = memoryview(data)[written:]
            written += os.pwrite(self.file.fileno(), part, extent * EXTENT + written)
        self._set(extent, _PRESENT | zlib.crc32(data))
        self.file.set_extents(extent, 1, True)

    def discard(self, offset: int, length: int) -> None:
        """Drop the extents of the bytes [offset, offset + length)."""
        for extent in range(offset // EXTENT, -(-min(offset + length, self.size) // EXTENT)):
            self._set(extent, 0)
            self.file.set_extents(extent, 1, False)

    def pin(self) -> None:
        """Evict this object after all others."""
        if not self._is_pinned:
            self._is_pinned = True
            os.pwrite(self._map, _ENTRY.pack(1), _HEADER.size - _ENTRY.size)

    def read_into(self, buffers: Buffers, offset: int) -> int:
        return read_into(self.file.fileno(), buffers, offset)

    @property
    def is_dropped(self) -> bool:
        return os.fstat(self.file.fileno()).st_nlink == 0


@dataclass(slots=True)
class _Usage:
    """A file of the tier."""

    path: Path
    bytes: int
    used: float
    is_pinned: bool


class Tier:
    """A directory of copies. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Keep about *limit* bytes in *folder*; more only if more are open."""
        self._folder = folder
        self._limit = limit
        self._boot = _BOOT_ID.read_text().strip().replace("-", "").encode()[:16]
        self._lock = threading.Lock()
        self._added = limit
        """Bytes stored since the last look at all files. The first store looks."""

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def known_size(self, name: str) -> int | None:
        """Return the size of an object that has a copy, or None."""
        with suppress(OSError):
            fd = os.open(_map_path(self._path(name)), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                header = os.pread(fd, _HEADER.size, 0)
            finally:
                os.close(fd)
            if len(header) == _HEADER.size and header.startswith(_MAGIC):
                size: int = _HEADER.unpack(header)[1]
                return size
        return None

    def open(self, name: str, size: int) -> TierFile:
        """Open or create the copy of an object."""
        path = self._path(name)
        for folder in (self._folder, path.parent):
            with suppress(FileExistsError):
                folder.mkdir(0o700)
        return TierFile(path, size, self._boot)

    def drop(self, name: str) -> None:
        """Remove the copy of an object that was deleted."""
        _remove(self._path(name))

    def stored(self, count: int) -> None:
        """Count bytes that were stored; make space if the limit may be exceeded."""
        with self._lock:
            self._added += count
            is_due = self._added >= max(self._limit // 64, EXTENT)
            if is_due:
                self._added = 0
        if is_due:
            self.make_space(self._limit)

    def make_space(self, limit: int) -> None:
        """Evict the least recently used copies, pinned ones last, if there are more bytes."""
        usage = sorted(self._usage(), key=lambda entry: (entry.is_pinned, entry.used))
        total = sum(entry.bytes for entry in usage)
        if total <= limit:
            return
        for entry in usage:
            if total <= limit * _KEPT:
                break
            if _evict(entry.path):
                total -= entry.bytes

    def used_bytes(self) -> int:
        """Return the bytes of all copies."""
        return sum(entry.bytes for entry in self._usage())

    def _usage(self) -> Iterator[_Usage]:
        with suppress(FileNotFoundError), os.scandir(self._folder) as folders:
            for folder in folders:
                with suppress(OSError), os.scandir(folder.path) as files:
                    for file in files:
                        if not file.name.endswith(_MAP_SUFFIX):
                            with suppress(OSError):
                                yield _used(Path(file.path))


def _used(path: Path) -> _Usage:
    size = os.stat(path, follow_symlinks=False).st_blocks * 512
    try:
        fd = os.open(_map_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return _Usage(path, size, 0.0, is_pinned=False)
    try:
        header = os.pread(fd, _HEADER.size, 0)
        is_pinned = len(header) == _HEADER.size and bool(_HEADER.unpack(header)[4])
        return _Usage(path, size, os.fstat(fd).st_mtime, is_pinned)
    finally:
        os.close(fd)


def _map_path(path: Path) -> Path:
    return path.with_name(path.name + _MAP_SUFFIX)


def _open_locked(path: Path) -> int:
    """Open a file that nobody evicts while the descriptor is open."""
    while True:
        fd = os.open(path, _FLAGS, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # It was evicted before it was locked.


def _remove(path: Path) -> None:
    """Remove a copy; first the map, because bytes without a map count as absent."""
    for file in (_map_path(path), path):
        with suppress(FileNotFoundError):
            file.unlink()


def _evict(path: Path) -> bool:
    """Remove a copy that nobody has open; return whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(fd).st_nlink:
            return False  # Another process has evicted it; a new copy may have its name.
        _remove(path)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
