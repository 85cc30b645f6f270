"""Targets of a restore: a new file, a file to overwrite, a block device, a pipe."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import AccessDenied, TargetFailed, UsageError
from cbtfs.restore.direct import Direct
from cbtfs.store.files import start_writing

_BLKZEROOUT: Final = 0x127F
"""ioctl of linux/fs.h that zeroes a range of a block device, by discarding if possible."""
_RANGE = struct.Struct("=QQ")
_PAGE_BYTES: Final = 4096
"""Unit of zeroing: every device accepts whole pages, and no cached page gets half stale."""
_STEP_BYTES: Final = 256 << 20
"""Maximum length of one request to zero: signals are handled between requests."""
_ZEROS: Final = memoryview(bytes(1 << 20))
_BEHIND_BYTES: Final = 16 << 20
"""Bytes between two starts of write-back: enough to be stored contiguously."""
_LOOPS: Final = Path("/sys/block")


class Target(Protocol):
    """A target for the image of one disk, whose size is known in advance.

    The caller writes or zeroes every byte, then calls finish() once. Old content of the target
    never remains.
    """

    files: tuple[int, int] | None
    """Descriptors for Chunks.write(): several threads may write at any offset.

    None: writes must ascend, zeros included.
    """

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write *data* at *offset*."""

    def settle(self, end: int) -> None:
        """Report that all bytes before *end*, which ascends, are written, to start write-back."""

    def zero(self, extent: Extent) -> None:
        """Make *extent* read as zeros."""

    def finish(self) -> None:
        """Complete and flush the image."""

    def facts(self) -> os.stat_result:
        """Return the attributes of the target. Call after finish()."""


class _Descriptor:
    """An open target that starts write-back early: the flush at the end has less to do."""

    def __init__(self, fd: int, direct: Direct | None = None) -> None:
        self._fd = fd
        self._direct = direct
        self._started = 0
        self.files: tuple[int, int] | None = fd, -1 if direct is None else direct.fd

    def write(self, offset: int, data: bytes | memoryview) -> None:
        done = 0 if self._direct is None else self._direct.write(offset, data)
        write_all(self._fd, offset + done, memoryview(data)[done:])

    def settle(self, end: int) -> None:
        if end - self._started >= _BEHIND_BYTES:
            start_writing(self._fd, self._started, end - self._started)
            self._started = end

    def facts(self) -> os.stat_result:
        return os.fstat(self._fd)


class FileTarget(_Descriptor):
    """An empty file that gets its length at the end; unwritten ranges are holes."""

    def __init__(self, fd: int, size: int, direct: Direct | None = None) -> None:
        super().__init__(fd, direct)
        self._size = size

    def zero(self, extent: Extent) -> None:
        """Do nothing: the file was empty, so its holes are zeros."""

    def finish(self) -> None:
        os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)


class DeviceTarget(_Descriptor):
    """The start of a block device with unknown content."""

    def __init__(self, fd: int, direct: Direct | None = None) -> None:
        super().__init__(fd, direct)
        self._can_zero = True

    def zero(self, extent: Extent) -> None:
        first = min(-(-extent.start // _PAGE_BYTES) * _PAGE_BYTES, extent.end)
        last = max(extent.end // _PAGE_BYTES * _PAGE_BYTES, first)
        self._write_zeros(extent.start, first)
        for start in range(first, last, _STEP_BYTES):
            self._zero_pages(start, min(start + _STEP_BYTES, last))
        self._write_zeros(last, extent.end)

    def _zero_pages(self, start: int, end: int) -> None:
        if self._can_zero:
            try:
                fcntl.ioctl(self._fd, _BLKZEROOUT, _RANGE.pack(start, end - start))
                return
            except OSError as exc:
                if exc.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
                    raise
                self._can_zero = False
        self._write_zeros(start, end)

    def _write_zeros(self, start: int, end: int) -> None:
        for at in range(start, end, len(_ZEROS)):
            write_all(self._fd, at, _ZEROS[: end - at])

    def finish(self) -> None:
        os.fsync(self._fd)


class StreamTarget:
    """A pipe or another descriptor that is written in order."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.files: tuple[int, int] | None = None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def settle(self, end: int) -> None:
        """Do nothing: a pipe has no write-back."""

    def zero(self, extent: Extent) -> None:
        for at in range(extent.start, extent.end, len(_ZEROS)):
            self.write(at, _ZEROS[: extent.end - at])

    def finish(self) -> None:
        """Do nothing: the reader has all bytes when the pipe is closed."""

    def facts(self) -> os.stat_result:
        return os.fstat(self._fd)


@contextmanager
def stream_target(fd: int) -> Iterator[Target]:
    """Open the target at descriptor *fd*; UsageError for a terminal, TargetFailed on errors."""
    name = Path("standard output")
    if os.isatty(fd):
        raise UsageError(f"{name} is a terminal: name a file, or use a pipe")
    with failing(name):
        yield StreamTarget(fd)


def write_all(fd: int, offset: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        offset, rest = offset + count, rest[count:]


@contextmanager
def open_target(path: Path, size: int, *, may_overwrite: bool) -> Iterator[Target]:
    """Open the target at *path* for an image of *size* bytes, which is complete after finish().

    A new file gets its name when it is complete. A file to overwrite is truncated at once, and
    after a failure.

    Raises:
        UsageError: *path* exists without *may_overwrite*, is in use, too small, or neither a file
            nor a block device.
        AccessDenied: this user may not write it.
        TargetFailed: a write failed.
    """
    with failing(path):
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            with _new_file(path, size) as target:
                yield target
            return
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
            raise UsageError(f"{path} is neither a file nor a block device: name another target")
        if not may_overwrite:
            raise UsageError(f"{path} already exists: use --force to overwrite it")
        if stat.S_ISBLK(facts.st_mode):
            with _device(path, size) as device:
                yield device
        else:
            with _old_file(path, size) as old:
                yield old


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """Turn errors of the system into errors that name the target."""
    try:
        yield
    except PermissionError as exc:
        raise AccessDenied(f"cannot write {path}: {exc.strerror}") from exc
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.ETXTBSY):
            raise in_use(path, "mounted, swap, or part of another device") from exc
        raise TargetFailed(f"cannot write {path}: {exc.strerror}; it is incomplete") from exc


def in_use(path: Path, by: str) -> UsageError:
    return UsageError(f"{path} is in use ({by}): name another target, or release it first")


@contextmanager
def _new_file(path: Path, size: int) -> Iterator[Target]:
    if path.is_symlink():
        raise UsageError(f"{path} is a dangling link: name a file")
    aside = path.with_name(f".cbtfs-{secrets.token_hex(8)}.partial")
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)  # or the kernel would not allow direct writes at the same time
        with Direct(fd) as direct:
            yield FileTarget(fd, size, direct)
        _rename_if_absent(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    finally:
        os.close(fd)


def refuse_existing(path: Path) -> None:
    """Raise UsageError if *path* exists."""
    if os.path.lexists(path):
        kind = "is a block device" if path.is_block_device() else "already exists"
        raise UsageError(f"{path} {kind}: --to writes new files only; name another target")


@contextmanager
def new_file_by_program(path: Path) -> Iterator[Path]:
    """Yield a path at which another program writes the file *path*.

    It is in a new directory beside *path*, and has the same name, because some formats store it.
    At the end of the block the file is flushed and gets its final name.

    Raises:
        UsageError: *path* exists.
        AccessDenied: this user may not write it.
        TargetFailed: a write failed.
    """
    with failing(path):
        refuse_existing(path)
        folder = path.with_name(f".cbtfs-{secrets.token_hex(8)}.partial")
        folder.mkdir(mode=0o700)
        try:
            made = folder / path.name
            yield made
            fd = os.open(made, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o600)
                os.fsync(fd)
            finally:
                os.close(fd)
            _rename_if_absent(made, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _rename_if_absent(aside: Path, path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} was created meanwhile: use --force to overwrite it")
    os.rename(aside, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _old_file(path: Path, size: int) -> Iterator[Target]:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{path} is no longer a file: check the path")
        refuse_loop(path, facts)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # QEMU locks open images.
        except OSError as exc:
            raise in_use(path, "locked by another program") from exc
        os.ftruncate(fd, 0)
        try:
            yield FileTarget(fd, size)
        except BaseException:
            os.ftruncate(fd, 0)
            raise
    finally:
        os.close(fd)


@contextmanager
def _device(path: Path, size: int) -> Iterator[Target]:
    fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISBLK(facts.st_mode):
            raise UsageError(f"{path} is no longer a block device: check the path")
        refuse_loop(path, facts)
        capacity = os.lseek(fd, 0, os.SEEK_END)
        if capacity < size:
            raise UsageError(f"{path} is too small: it has {capacity} bytes, the disk has {size}")
        with Direct(fd) as direct:
            yield DeviceTarget(fd, direct)
    finally:
        os.close(fd)


def refuse_loop(path: Path, facts: os.stat_result) -> None:
    """Raise UsageError if a loop device uses the file of *facts*; the kernel allows the write."""
    for backing in _LOOPS.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            used = os.stat(backing.read_text().rstrip("\n"))
            is_same = os.path.samestat(used, facts)
            if is_same or (stat.S_ISBLK(facts.st_mode) and used.st_rdev == facts.st_rdev):
                raise in_use(path, f"by /dev/{backing.parts[3]}")
