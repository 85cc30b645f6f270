"""Targets of a restore in place: an existing file, a block device or an NBD export."""

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.extent import Extent, between
from cbtfs.errors import TargetFailed, UsageError
from cbtfs.restore.direct import Direct
from cbtfs.restore.disk import refuse_inside
from cbtfs.restore.target import DeviceTarget, failing, in_use, refuse_loop, write_all
from cbtfs.store.file_system import OURS, file_system

_NBD = re.compile(r"nbds?(\+unix|\+vsock)?://", re.IGNORECASE)
_PUNCH_HOLE: Final = 0x03
"""Mode of fallocate(2): FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE."""
_STEP_BYTES: Final = 256 << 20
ZEROS: Final = memoryview(bytes(1 << 20))
_LOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of a 64-bit Linux: type, whence, start, length, pid."""


class InPlaceTarget(Protocol):
    """A disk image with content, which several threads may read and write."""

    name: str
    """Name for messages, without secrets."""
    size: int
    """Size in bytes, at least that of the disk."""
    path: Path | None
    """Path of a regular file; None for other targets, whose changes cannot be detected."""
    files: tuple[int, int] | None
    """Descriptors for compiled code: one that uses the page cache, and one for direct access or -1.
    None: only the methods have the content."""

    def data_in(self, extent: Extent) -> Iterator[Extent]:
        """Yield the parts of *extent* that may not be zeros, ascending."""

    def read(self, offset: int, data: memoryview) -> None:
        """Fill *data* from *offset*."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write *data* at *offset*."""

    def zero(self, extent: Extent) -> None:
        """Make *extent* read as zeros."""

    def flush(self) -> None:
        """Flush all writes to stable storage."""

    def drop_cache(self) -> None:
        """Drop cached content if possible, so that reads come from the storage. Flush first."""

    def facts(self) -> os.stat_result:
        """Return the attributes of a regular file."""


class _Descriptor:
    """An open file or block device."""

    def __init__(self, fd: int, direct: Direct, path: Path, size: int) -> None:
        self._fd = fd
        self._direct = direct
        self.files: tuple[int, int] | None = (fd, direct.fd)
        self.name = str(path)
        self.size = size

    def read(self, offset: int, data: memoryview) -> None:
        while data:
            count = self._direct.read(offset, data) or os.preadv(self._fd, [data], offset)
            if not count:
                raise TargetFailed(f"{self.name} became shorter while it was restored")
            offset, data = offset + count, data[count:]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        done = self._direct.write(offset, data)
        write_all(self._fd, offset + done, memoryview(data)[done:])

    def flush(self) -> None:
        os.fsync(self._fd)

    def drop_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def facts(self) -> os.stat_result:
        return os.fstat(self._fd)


class InPlaceFile(_Descriptor):
    """A regular file; zeros become holes if the file system has them."""

    def __init__(self, fd: int, direct: Direct, path: Path, size: int) -> None:
        super().__init__(fd, direct, path, size)
        self.path: Path | None = path
        self._can_punch = True

    def data_in(self, extent: Extent) -> Iterator[Extent]:
        at = extent.start
        while at < extent.end:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                end = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                return  # no data up to the end of the file
            yield from between(start, min(end, extent.end))
            at = end

    def zero(self, extent: Extent) -> None:
        if self._can_punch:
            try:
                for start in range(extent.start, extent.end, _STEP_BYTES):
                    _punch(self._fd, start, min(_STEP_BYTES, extent.end - start))
                return
            except OSError as exc:
                if exc.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self._can_punch = False
        for at in range(extent.start, extent.end, len(ZEROS)):
            write_all(self._fd, at, ZEROS[: extent.end - at])


def _punch(fd: int, start: int, length: int) -> None:
    import ctypes  # here, because it takes a while and most restores make no hole

    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(fd, _PUNCH_HOLE, start, length) < 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


class InPlaceDevice(_Descriptor):
    """A block device; zeros are discarded if the kernel guarantees that they read as zeros."""

    def __init__(self, fd: int, direct: Direct, path: Path, size: int) -> None:
        super().__init__(fd, direct, path, size)
        self.path: Path | None = None
        self._device = DeviceTarget(fd)

    def data_in(self, extent: Extent) -> Iterator[Extent]:
        yield extent

    def zero(self, extent: Extent) -> None:
        self._device.zero(extent)


def is_nbd_uri(target: str) -> bool:
    return _NBD.match(target) is not None


@contextmanager
def open_in_place(target: str, size: int, repository: Path) -> Iterator[InPlaceTarget]:
    """Open the existing *target* for a disk of *size* bytes; nothing is written yet.

    Raises:
        UsageError: it does not exist, is in use, too small, in the repository or in a cbtfs mount.
        AccessDenied: this user may not write it, or the export is read-only.
        SourceUnavailable: the NBD server cannot be reached, or a read failed.
        TargetFailed: a write failed.
    """
    if is_nbd_uri(target):
        from cbtfs.restore.in_place_export import open_export

        with open_export(target, size) as export:
            yield export
        return
    path = Path(target)
    refuse_inside(repository, path)
    with failing(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            raise UsageError(
                f"{path} does not exist: create it, or restore without --in-place"
            ) from None
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise UsageError(f"{path} is neither a file nor a block device: name another target")
        kind, source = file_system(path)
        if source == OURS and kind.startswith("fuse") and stat.S_ISREG(mode):
            raise UsageError(f"{path} is in a mount of cbtfs: name another target")
        is_device = stat.S_ISBLK(mode)
        exclusive = os.O_EXCL if is_device else os.O_NONBLOCK
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
        try:
            facts = os.fstat(fd)
            if stat.S_IFMT(facts.st_mode) != stat.S_IFMT(mode):
                raise UsageError(f"{path} was replaced: check the path")
            refuse_loop(path, facts)
            _lock(fd, path)
            capacity = os.lseek(fd, 0, os.SEEK_END)
            with Direct(fd) as direct:
                opened = (InPlaceDevice if is_device else InPlaceFile)(fd, direct, path, capacity)
                refuse_small(opened, size)
                yield opened
        finally:
            os.close(fd)


def refuse_small(target: InPlaceTarget, size: int) -> None:
    if target.size < size:
        raise UsageError(
            f"{target.name} is too small: it has {target.size} bytes, the disk has {size}"
        )


def _lock(fd: int, path: Path) -> None:
    """Lock the whole file against other restores and QEMU, which locks open images."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise in_use(path, "locked by another program") from exc
