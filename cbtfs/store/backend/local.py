"""Objects as files of local directories, written durably and opened without following links."""

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, DataCorrupt
from cbtfs.native import PackFile
from cbtfs.store.backend.base import Buffers, Content, Head, Parts, sorted_after
from cbtfs.store.files import (
    create,
    make_folder,
    open_regular,
    put_if_absent,
    read_exactly,
    read_into,
    regular_facts,
    remove,
    replace,
    start_writing,
    sync_folder,
    write_all,
)
from cbtfs.store.folder import Folder

ASIDE_SUFFIX: Final = ".tmp"
OPEN_SUFFIX: Final = ".open"
"""Suffixes of files that are being written: whole ones and uploads."""
_BEHIND_BYTES: Final = 8 << 20
"""Bytes between two starts of write-back, which shorten the flush at the end."""
_STAMP: Final = struct.Struct("<QQQ")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}\Z")


class LocalObject:
    """A file open for reading."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        """Open the file at *path*, called *shown* in messages."""
        self.path = shown or path
        self._fd = open_regular(path)
        self.file = PackFile(self._fd)
        self.size = os.fstat(self._fd).st_size

    @property
    def is_removed(self) -> bool:
        return os.fstat(self._fd).st_nlink == 0

    def read_into(self, buffers: Buffers, offset: int) -> int:
        return read_into(self._fd, buffers, offset)

    def data_from(self, offset: int) -> int:
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as exc:
            return self.size if exc.errno == errno.ENXIO else offset

    def fetch(self, offset: int, length: int) -> None:
        """Do nothing: all bytes are here."""

    def fetch_again(self, offset: int, length: int) -> bool:
        return False

    def pin(self) -> None:
        """Do nothing: the object is not a copy."""


class LocalUpload:
    """A file with *suffix* until close() has flushed it.

    It owns *folder*, and closes it after close() or abandon(). The file is locked until then, so
    discard_unfinished() knows that it is in use.
    """

    def __init__(self, name: str, folder: Folder, suffix: str) -> None:
        self._folder = folder
        self._path = folder.at / name
        self._aside = folder.at / (name + suffix)
        self._fd = self._create()
        self._written = self._started = 0

    def _create(self) -> int:
        while True:
            fd = create(self._aside)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)  # It was taken for a leftover before it was locked.

    def write(self, parts: Parts) -> int:
        count = write_all(self._fd, parts)
        self._written += count
        if self._written - self._started >= _BEHIND_BYTES:
            start_writing(self._fd, self._started, self._written - self._started)
            self._started = self._written
        return count

    def close(self) -> None:
        try:
            os.fsync(self._fd)
            os.rename(self._aside, self._path)
        finally:
            self._close_file()
        sync_folder(self._path.parent)
        self._folder.close()

    def abandon(self) -> None:
        self._close_file()
        if not self._folder.is_closed:
            self._aside.unlink(missing_ok=True)
            self._folder.close()

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Directory:
    """A FileBackend: one directory, in which a name is the name of a file."""

    def __init__(self, folder: Folder) -> None:
        """Own *folder*."""
        self._folder = folder

    def close(self) -> None:
        self._folder.close()

    def path(self, name: str) -> Path:
        return self._folder.path / name

    def _at(self, name: str) -> Path:
        return self._folder.at / name

    def create(self, name: str, data: bytes) -> None:
        put_if_absent(self._at(name), data)

    def upload(self, name: str) -> LocalUpload:
        return LocalUpload(
            name, Folder(self._folder.at, self._folder.path, follows=True), ASIDE_SUFFIX
        )

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        return _load(self._at(name), offset, length)

    def open(self, name: str) -> LocalObject:
        return LocalObject(self._at(name), self.path(name))

    def names(self) -> Collection[str]:
        return os.listdir(self._folder.at)

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return iter(sorted_after(self.names(), name, prefix))

    def head(self, name: str) -> Head:
        return _head(regular_facts(self._at(name)))

    def sizes(self) -> Mapping[str, int]:
        return _sizes(self._folder)

    def delete(self, name: str) -> None:
        self._at(name).unlink(missing_ok=True)

    def unfinished(self) -> int:
        return len(self._unfinished())

    def _unfinished(self) -> list[str]:
        return [name for name in self.names() if name.endswith(ASIDE_SUFFIX)]

    def discard_unfinished(self) -> int:
        names = self._unfinished()
        for name in names:
            remove(self._at(name))
        return len(names)

    def follow(self) -> bool:
        return self._folder.reopen()

    def replace(self, name: str, data: bytes) -> None:
        replace(self._at(name), data)

    def rename(self, name: str, new: str) -> None:
        os.rename(self._at(name), self._at(new))

    def flush(self) -> None:
        sync_folder(self._folder.at)

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        if not self._at(name).exists():
            self._folder.reopen()  # A copy of the repository may have replaced the directory.
        path = self._at(name)
        fd = open_regular(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.stat(path, follow_symlinks=False).st_ino != os.fstat(fd).st_ino:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        with ExitStack() as locks:
            try:
                fd = open_regular(self._at(name))
                locks.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (OSError, CbtfsError):
                yield False
            else:
                yield True

    @contextmanager
    def locked(self) -> Iterator[None]:
        fd = os.open(self._folder.at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


class ShardedDirectory:
    """A Backend: 256 directories, each named by the first two digits of the names in it."""

    def __init__(self, folder: Folder) -> None:
        """Own *folder*."""
        self._folder = folder

    def close(self) -> None:
        self._folder.close()

    def path(self, name: str) -> Path:
        return self._folder.path / name[:2] / name

    def _inner(self, name: str) -> Folder:
        return self._folder.inner(name[:2])

    def create(self, name: str, data: bytes) -> None:
        make_folder(self._folder.at / name[:2])
        with self._inner(name) as folder:
            put_if_absent(folder.at / name, data)

    def upload(self, name: str) -> LocalUpload:
        make_folder(self._folder.at / name[:2])
        return LocalUpload(name, self._inner(name), OPEN_SUFFIX)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        with self._inner(name) as folder:
            return _load(folder.at / name, offset, length)

    def open(self, name: str) -> LocalObject:
        with self._inner(name) as folder:
            return LocalObject(folder.at / name, folder.path / name)

    def names(self) -> Collection[str]:
        return [name for _, name in self._files()]

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield directory and name of all files; no paths, because there may be 100,000."""
        for folder, inner in self._folders():
            for name in os.listdir(inner.at):
                yield folder, name

    def _folders(self) -> Iterator[tuple[str, Folder]]:
        """Yield the directories that exist, each open until the next one."""
        with os.scandir(self._folder.at) as folders:
            for folder in folders:
                if _FOLDER.match(folder.name) and folder.is_dir(follow_symlinks=False):
                    with self._folder.inner(folder.name) as inner:
                        yield folder.name, inner

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return iter(sorted_after(self.names(), name, prefix))

    def head(self, name: str) -> Head:
        with self._inner(name) as folder:
            return _head(regular_facts(folder.at / name))

    def sizes(self) -> Mapping[str, int]:
        return dict(item for _, inner in self._folders() for item in _sizes(inner).items())

    def delete(self, name: str) -> None:
        try:
            folder = self._inner(name)
        except FileNotFoundError:
            return
        with folder:
            (folder.at / name).unlink(missing_ok=True)

    def flush(self) -> None:
        for _, folder in self._folders():
            sync_folder(folder.at)

    def unfinished(self) -> int:
        return len(self._unfinished())

    def _unfinished(self) -> list[tuple[str, str]]:
        suffixes = ASIDE_SUFFIX, OPEN_SUFFIX
        return [(folder, name) for folder, name in self._files() if name.endswith(suffixes)]

    def discard_unfinished(self) -> int:
        count = 0
        for folder, name in self._unfinished():
            with self._folder.inner(folder) as inner:
                count += _remove_unlocked(inner.at / name)
        return count

    def follow(self) -> bool:
        return self._folder.reopen()


def _remove_unlocked(path: Path) -> bool:
    """Remove a temporary file unless a writer has it locked; return whether it was removed."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return False
    except DataCorrupt:
        remove(path)
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _load(path: Path, offset: int, length: int | None) -> Content:
    fd = open_regular(path)
    try:
        facts = os.fstat(fd)
        left = max(facts.st_size - offset, 0)
        wanted = left if length is None else min(length, left)
        return Content(read_exactly(fd, offset, wanted), _head(facts))
    finally:
        os.close(fd)


def _sizes(folder: Folder) -> dict[str, int]:
    """Return the sizes of the regular files of *folder* by name, without those being written."""
    sizes = {}
    fd = os.open(folder.at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By descriptor: paths take 1.7 times as long.
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.name.endswith((ASIDE_SUFFIX, OPEN_SUFFIX)):
                    continue
                with suppress(FileNotFoundError):  # It was removed since.
                    facts = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode):
                        sizes[entry.name] = facts.st_size
    finally:
        os.close(fd)
    return sizes


def _head(facts: os.stat_result) -> Head:
    stamp = _STAMP.pack(facts.st_ino, facts.st_mtime_ns & (1 << 64) - 1, facts.st_size)
    return Head(facts.st_size, stamp)
