"""Where a restored image goes: a new file, a file that is overwritten, a block device."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import AccessDenied, TargetFailed, UsageError
from cbtfs.store.files import start_writing

_BLKZEROOUT: Final = 0x127F
"""linux/fs.h: zero a range of a block device, by discarding where that reads as zeros."""
_RANGE = struct.Struct("=QQ")
_PAGE_BYTES: Final = 4096
"""Zeroing keeps to whole pages: every device takes that, and no cached page is half stale."""
_STEP_BYTES: Final = 256 << 20
"""One request to zero is no longer: a signal is answered between two."""
_ZEROS: Final = memoryview(bytes(1 << 20))
_BEHIND_BYTES: Final = 16 << 20
"""How much comes together before the storage is given it: enough to lie in one place."""
_LOOPS: Final = Path("/sys/block")


class Target(Protocol):
    """A place for the image of one disk, of a size that is known from the start.

    Every byte is either written or zeroed, then finish() is called once. Whatever the target held
    before does not show.
    """

    is_ordered: bool
    """Writing has to be in ascending order, zeros in between; else by several threads at once."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Let *data* stand at *offset*."""

    def settle(self, end: int) -> None:
        """Everything before *end*, which ascends, is written: the storage may start on it."""

    def zero(self, extent: Extent) -> None:
        """Let *extent* read as zeros."""

    def finish(self) -> None:
        """Make the image whole, and make it last."""


class _Behind:
    """Has the storage begin with what was put already: the flush at the end finds less to do."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._started = 0

    def settle(self, end: int) -> None:
        if end - self._started >= _BEHIND_BYTES:
            start_writing(self._fd, self._started, end - self._started)
            self._started = end


class FileTarget(_Behind):
    """A file that has no length until it is whole: what was not written is a hole."""

    is_ordered = False

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd)
        self._size = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        _write_all(self._fd, offset, data)

    def zero(self, extent: Extent) -> None:
        """Nothing to do: the file was empty, so its gaps are zeros."""

    def finish(self) -> None:
        os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)


class DeviceTarget(_Behind):
    """The first bytes of a block device that holds who knows what."""

    is_ordered = False

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._can_zero = True

    def write(self, offset: int, data: bytes | memoryview) -> None:
        _write_all(self._fd, offset, data)

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
            _write_all(self._fd, at, _ZEROS[: end - at])

    def finish(self) -> None:
        os.fsync(self._fd)


class StreamTarget:
    """A pipe, or whatever else takes bytes in order and cannot go back."""

    is_ordered = True

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def settle(self, end: int) -> None:
        """Nothing to do: what is written is on its way."""

    def zero(self, extent: Extent) -> None:
        for at in range(extent.start, extent.end, len(_ZEROS)):
            self.write(at, _ZEROS[: extent.end - at])

    def finish(self) -> None:
        """Nothing to do: who reads has it all when the pipe ends."""


@contextmanager
def stream_target(fd: int) -> Iterator[Target]:
    """The target that *fd* is; UsageError if it is a terminal, TargetFailed if a write fails."""
    name = Path("standard output")
    if os.isatty(fd):
        raise UsageError(f"{name} is a terminal: name a file, or lead it into a pipe")
    with _failing(name):
        yield StreamTarget(fd)


def _write_all(fd: int, offset: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        offset, rest = offset + count, rest[count:]


@contextmanager
def open_target(path: Path, size: int, *, may_overwrite: bool) -> Iterator[Target]:
    """The target at *path* for an image of *size* bytes; it is whole after finish() alone.

    A new file gets its name when it is whole. A file that is overwritten is empty until then, and
    empty again after a failure. UsageError if *path* is there and *may_overwrite* is not given, or
    is in use, too small, or neither file nor device; TargetFailed if a write fails.
    """
    with _failing(path):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            with _new_file(path, size) as target:
                yield target
            return
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise UsageError(f"{path} is neither a file nor a block device: name one that is")
        if not may_overwrite:
            raise UsageError(f"{path} is there already: give --force to overwrite it")
        if stat.S_ISBLK(found.st_mode):
            with _device(path, size) as device:
                yield device
        else:
            with _old_file(path, size) as old:
                yield old


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Turn what the system says into an error that names the target."""
    try:
        yield
    except PermissionError as exc:
        raise AccessDenied(f"cannot write {path}: {exc.strerror}") from exc
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.ETXTBSY):
            raise _in_use(path, "mounted, swap, or part of another device") from exc
        raise TargetFailed(f"cannot write {path}: {exc.strerror}; it is not whole") from exc


def _in_use(path: Path, by: str) -> UsageError:
    return UsageError(f"{path} is in use ({by}): name another target, or release it first")


@contextmanager
def _new_file(path: Path, size: int) -> Iterator[Target]:
    if path.is_symlink():
        raise UsageError(f"{path} is a link to nothing: name a file")
    aside = path.with_name(f".cbtfs-{secrets.token_hex(8)}.partial")
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield FileTarget(fd, size)
        _rename_if_absent(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    finally:
        os.close(fd)


def _rename_if_absent(aside: Path, path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} has appeared meanwhile: give --force to overwrite it")
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
            raise UsageError(f"{path} is no longer a file: look what it is")
        _refuse_loop(path, facts)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # QEMU locks the images it has open
        except OSError as exc:
            raise _in_use(path, "another program holds a lock on it") from exc
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
            raise UsageError(f"{path} is no longer a block device: look what it is")
        _refuse_loop(path, facts)
        room = os.lseek(fd, 0, os.SEEK_END)
        if room < size:
            raise UsageError(f"{path} is too small: it has {room} bytes, the disk has {size}")
        yield DeviceTarget(fd)
    finally:
        os.close(fd)


def _refuse_loop(path: Path, facts: os.stat_result) -> None:
    """UsageError if a loop device stands on what *facts* are of: the kernel would let us write."""
    for backing in _LOOPS.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found = os.stat(backing.read_text().rstrip("\n"))
            is_same = os.path.samestat(found, facts)
            if is_same or (stat.S_ISBLK(facts.st_mode) and found.st_rdev == facts.st_rdev):
                raise _in_use(path, f"/dev/{backing.parts[3]} stands on it")
