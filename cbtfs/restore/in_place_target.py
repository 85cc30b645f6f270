"""Targets of a restore in place: an existing file, a block device or an NBD export."""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.extent import Extent, between
from cbtfs.errors import AccessDenied, SourceUnavailable, TargetFailed, UsageError
from cbtfs.restore.direct import Direct
from cbtfs.restore.disk import refuse_inside
from cbtfs.restore.target import DeviceTarget, failing, in_use, refuse_loop, write_all
from cbtfs.source.nbd import NbdExport, NbdLimits
from cbtfs.store.file_system import OURS, file_system

_NBD = re.compile(r"nbds?(\+unix|\+vsock)?://", re.IGNORECASE)
_PUNCH_HOLE: Final = 0x03
"""Mode of fallocate(2): FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE."""
_STEP_BYTES: Final = 256 << 20
_ZEROS: Final = memoryview(bytes(1 << 20))
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
        for at in range(extent.start, extent.end, len(_ZEROS)):
            write_all(self._fd, at, _ZEROS[: extent.end - at])


_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _punch(fd: int, start: int, length: int) -> None:
    while _fallocate(fd, _PUNCH_HOLE, start, length) < 0:
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


class InPlaceExport:
    """A writable NBD export."""

    def __init__(self, export: NbdExport) -> None:
        self._export = export
        self._edges = threading.Lock()
        """Held to change a part of a unit, which is read and written as a whole."""
        self.name = export.name
        self.size = export.size
        self.path: Path | None = None

    def data_in(self, extent: Extent) -> Iterator[Extent]:
        yield extent

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = self._export.read(Extent(offset, len(data)))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        unit = self._export.unit
        end = offset + len(data)
        if offset % unit == end % unit == 0:
            with _writing(self.name):
                self._export.write(offset, data)
            return
        first, last = offset // unit * unit, -(-end // unit) * unit
        with self._edges, _writing(self.name):
            whole = bytearray(self._export.read(Extent(first, last - first)))
            whole[offset - first : end - first] = data
            self._export.write(first, memoryview(whole))

    def zero(self, extent: Extent) -> None:
        unit = self._export.unit
        first, last = -(-extent.start // unit) * unit, extent.end // unit * unit
        if first < last and self._export.can_zero:
            with _writing(self.name):
                self._export.zero(Extent(first, last - first))
            rest = [*between(extent.start, first), *between(last, extent.end)]
        else:
            rest = [extent]
        for part in rest:
            for at in range(part.start, part.end, len(_ZEROS)):
                self.write(at, _ZEROS[: part.end - at])

    def flush(self) -> None:
        with _writing(self.name):
            self._export.flush()

    def drop_cache(self) -> None:
        """Do nothing: NBD has no request for that."""

    def facts(self) -> os.stat_result:
        raise AssertionError("an export has no attributes")


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except SourceUnavailable as exc:
        raise TargetFailed(f"cannot write {name}: {exc}; it is incomplete") from exc


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
        with _export(target, size) as export:
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


@contextmanager
def _export(uri: str, size: int) -> Iterator[InPlaceExport]:
    # A lost connection ends the run: the server may have lost writes that were not flushed.
    with contextlib.closing(NbdExport(uri, (), NbdLimits(pauses=()))) as export:
        if export.is_read_only:
            raise AccessDenied(f"cannot write {export.name}: the export is read-only")
        if not export.can_flush:
            raise UsageError(
                f"{export.name} cannot flush, so its writes may be lost: use another NBD server"
            )
        opened = InPlaceExport(export)
        refuse_small(opened, size)
        if -(-size // export.unit) * export.unit > export.size:
            raise UsageError(
                f"the size of {export.name} is not a multiple of its minimum block size, "
                f"{export.unit} bytes: restore to another target"
            )
        yield opened
