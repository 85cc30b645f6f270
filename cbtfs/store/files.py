"""Files of a repository: opened without following links, written durably.

cbtfs makes every path inside a repository from its own ids. Even so, it opens only regular files:
a planted link, FIFO or device is an error and does not lead out of the repository.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cbtfs.errors import AccessDenied, DataCorrupt
from cbtfs.shortage import refuse_shortage
from cbtfs.store.owner import give_new, refuse_denied
from cbtfs.store.shown import shown

FILE_MODE: Final = 0o600
_UNNAMED: Final = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
_NO_UNNAMED_FILES: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""Errors of a file system that has no files without a name."""
FOLDER_MODE: Final = 0o700
_REMOVE_ATTEMPTS: Final = 10

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Arguments of renameat2(2)."""

_NO_REGULAR_FILE: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR)
"""Errors of open(2) for a link, FIFO, device or directory."""

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


Buffers = Sequence[bytearray | memoryview]
"""Memory to fill, one buffer after the other."""


def open_regular(path: Path, flags: int = 0) -> int:
    """Return a descriptor of the regular file at *path*, by default for reading.

    Raises:
        FileNotFoundError: the file does not exist.
        NotADirectoryError: a parent is not a directory.
        AccessDenied: this user may not open it, or not write to a read-only file system.
        OutOfResources: a limit of this process is reached.
        DataCorrupt: it is not a regular file, or it cannot be read.
    """
    try:
        fd = os.open(path, _READ | flags)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError | NotADirectoryError):
            raise
        refuse_denied(exc, path)
        refuse_shortage(exc, f"cannot open {shown(path)}")
        if exc.errno == errno.EROFS:
            raise AccessDenied(f"cannot write {shown(path)}: {exc.strerror}") from exc
        expected = "; expected a regular file" if exc.errno in _NO_REGULAR_FILE else ""
        raise DataCorrupt(f"cannot open {shown(path)}: {exc.strerror}{expected}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DataCorrupt(_irregular(path))
    return fd


def _irregular(path: Path) -> str:
    return f"{shown(path)} is not a regular file: remove it, it does not belong here"


def refuse_others(path: Path) -> None:
    """Raise DataCorrupt unless *path* is absent or a regular file; do not open it."""
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise DataCorrupt(_irregular(path))


def regular_facts(path: Path) -> os.stat_result:
    """Return the facts of the regular file at *path*; DataCorrupt if it is anything else."""
    facts = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(facts.st_mode):
        raise DataCorrupt(_irregular(path))
    return facts


def remove(path: Path) -> None:
    """Remove the file at *path*; DataCorrupt if it is a directory."""
    try:
        path.unlink()
    except IsADirectoryError as exc:
        raise DataCorrupt(
            f"{shown(path)} is a directory: remove it, it does not belong here"
        ) from exc


def remove_folder(path: Path) -> None:
    """Remove a directory with its files, or a file or link, at *path*.

    A reader that has just opened the directory may still create LMDB's lock file there.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for _ in range(_REMOVE_ATTEMPTS - 1):
        try:
            shutil.rmtree(path)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    shutil.rmtree(path)


def exchange(new: Path, path: Path) -> None:
    """Swap *new* and *path* atomically; rename *new* if *path* does not exist."""
    import ctypes  # here, because few commands replace a directory

    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(new), os.fsencode(path)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) < 0:
        code = ctypes.get_errno()
        if code == errno.ENOENT:
            os.rename(new, path)
        elif code in (errno.EINVAL, errno.ENOSYS):  # The file system cannot swap.
            aside = _aside_of(path)
            remove_folder(aside)
            os.rename(path, aside)
            os.rename(new, path)
            os.rename(aside, new)
        else:
            raise OSError(code, os.strerror(code), str(path))
    sync_folder(path.parent)


def finish_exchange(path: Path) -> None:
    """Restore *path* after a crash in exchange() on a file system that cannot swap."""
    aside = _aside_of(path)
    if not os.path.lexists(path) and os.path.lexists(aside):
        os.rename(aside, path)
        sync_folder(path.parent)


def _aside_of(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def load_file(path: Path, limit: int) -> bytes:
    """Return the bytes of the regular file at *path*, at most *limit* + 1."""
    fd = open_regular(path)
    try:
        return read_exactly(fd, 0, min(os.fstat(fd).st_size, limit + 1))
    finally:
        os.close(fd)


def read_exactly(fd: int, offset: int, length: int) -> bytes:
    """Return *length* bytes at *offset*; fewer only at the end of the file."""
    data = os.pread(fd, length, offset)
    if len(data) in (0, length):
        return data
    parts = [data]
    while data and (missing := length - sum(map(len, parts))):
        data = os.pread(fd, missing, offset + length - missing)
        parts.append(data)
    return b"".join(parts)


def read_into(fd: int, buffers: Buffers, offset: int) -> int:
    """Fill *buffers* from *offset* on; return the bytes read, fewer only at the end of the file."""
    count = done = os.preadv(fd, buffers, offset)
    wanted = sum(map(len, buffers))
    while count and done < wanted:
        count = os.preadv(fd, _beyond(buffers, done), offset + done)
        done += count
    return done


def _beyond(buffers: Buffers, done: int) -> list[memoryview]:
    """Return *buffers* without their first *done* bytes."""
    left = []
    for buffer in buffers:
        left.append(memoryview(buffer)[done:])
        done = max(done - len(buffer), 0)
    return left


def scatter(data: bytes, buffers: Buffers) -> int:
    """Copy *data* to the beginning of *buffers*; return the number of bytes copied."""
    done = 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


def create(path: Path) -> int:
    """Create a file at *path*, which must not exist; return a descriptor to read and write it."""
    fd = os.open(path, _CREATE, FILE_MODE)
    try:
        give_new(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, parts: Sequence[bytes | memoryview]) -> int:
    """Append all of *parts*; return the number of bytes."""
    pending = [memoryview(part) for part in parts if len(part)]
    written = 0
    while pending:
        count = os.writev(fd, pending[:512])
        written += count
        while pending and count >= len(pending[0]):
            count -= len(pending.pop(0))
        if count:
            pending[0] = pending[0][count:]
    return written


def start_writing(fd: int, offset: int, length: int) -> None:
    """Start the write-back of a range without waiting for its end.

    POSIX_FADV_DONTNEED has this effect and does not drop dirty pages (Linux, mm/fadvise.c).
    """
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def sync_folder(path: Path) -> None:
    """Flush the entries of the directory at *path*."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Create the directory at *path* durably, unless it exists."""
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise DataCorrupt(f"{shown(path)} is not a directory: remove it") from None
        return
    give_new(path)
    sync_folder(path.parent)


def _write(path: Path, data: bytes) -> None:
    fd = create(path)
    try:
        write_all(fd, [data])
        os.fsync(fd)
    finally:
        os.close(fd)


def put_if_absent(path: Path, data: bytes) -> None:
    """Create *path* with *data*, atomically and durably; FileExistsError if it exists.

    Exactly one of several callers succeeds. The file has no name until it is complete, so a killed
    process leaves nothing; a file system without such files gets a temporary name of its own.
    """
    try:
        fd = os.open(path.parent, _UNNAMED, FILE_MODE)
    except OSError as exc:
        if exc.errno not in _NO_UNNAMED_FILES:
            raise
        _put_by_name(path, data)
    else:
        try:
            give_new(path, fd)
            write_all(fd, [data])
            os.fsync(fd)
            # Only with a descriptor does Python follow this link, as open(2) shows for O_TMPFILE.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
        finally:
            os.close(fd)
    sync_folder(path.parent)


def _put_by_name(path: Path, data: bytes) -> None:
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write(aside, data)
        os.link(aside, path, follow_symlinks=False)
    finally:
        aside.unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """Replace the content of *path* by *data*, durably; a crash leaves the old or the new one."""
    aside = path.with_name(path.name + ".tmp")
    aside.unlink(missing_ok=True)
    _write(aside, data)
    os.replace(aside, path)
    sync_folder(path.parent)
