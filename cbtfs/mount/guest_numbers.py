"""Inode numbers of files of guests, in memory that the workers of one mount share.

A number is a hash of point, volume and inode of the guest, so it is stable, and equal for the names
of one file. The table has the directory and the name of each number that the kernel got, because
any worker may be asked for it. It has two halves: when one is full, the older one is emptied. A
number that is forgotten so is looked up again by the kernel, which gets ESTALE; directories of
files that are in use are added again.
"""

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

from cbtfs.errors import CbtfsError

_MARK: Final = 1 << 63
"""Bit that only numbers of files of guests have."""
_HEADER: Final = struct.Struct("<QQQ")
"""Generation, and the lengths of the two halves."""
_RECORD: Final = struct.Struct("<QQH")
_CAPACITY: Final = 1 << 20
"""Numbers of one half."""
_MAX_DEPTH: Final = 1 << 13

Place = tuple[int, str]
"""Number of a directory, and a name in it."""


class NumberForgotten(CbtfsError):
    """Raised for a number that was dropped from the table; the kernel looks it up again."""

    errno = errno.ESTALE


def is_guest(inode: int) -> bool:
    """Return whether an inode number is that of a file of a guest."""
    return inode >= _MARK


def guest_number(point: str, volume: str, inode: int, path: str) -> int:
    """Return the number of a file; *path* counts if the file system has no number for it."""
    identity = f"{point}:{volume}:{inode or path}".encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big") | _MARK


class GuestNumbers:
    """The table of a mount. Create it before the forks; safe to use from several threads."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._header = os.memfd_create("cbtfs numbers", os.MFD_CLOEXEC)
        self._halves = [os.memfd_create("cbtfs numbers", os.MFD_CLOEXEC) for _ in range(2)]
        os.pwrite(self._header, _HEADER.pack(0, 0, 0), 0)
        self._lock = threading.Lock()
        self._generation = 0
        self._known: list[dict[int, Place]] = [{}, {}]
        self._read = [0, 0]

    def add(self, directory: int, files: Iterable[tuple[int, str]]) -> None:
        """Add the numbers of files in a directory, and those of the directories above."""
        with self._locked():
            self._switch_if_full()
            current = self._known[self._generation % 2]
            records = []
            above: int | None = directory
            while above is not None and is_guest(above) and above not in current:
                place = self._find(above)
                if place is None:
                    break
                records.append((above, *place))
                above = place[0]
            records += [(n, directory, name) for n, name in files if n not in current]
            if records:
                self._append(records)

    def places(self, number: int) -> tuple[int, list[str]]:
        """Return the number of the directory `files` of a file, and its path in it.

        Raises:
            NumberForgotten: the number is not in the table.
        """
        with self._lock:
            found = self._chain(number)
        if found is None:
            with self._locked():
                found = self._chain(number)
        if found is None:
            raise NumberForgotten("a file of a guest must be looked up again")
        return found

    def _chain(self, number: int) -> tuple[int, list[str]] | None:
        names: list[str] = []
        while is_guest(number):
            place = self._find(number)
            if place is None or len(names) > _MAX_DEPTH:
                return None
            number, name = place
            names.append(name)
        return number, names[::-1]

    def _find(self, number: int) -> Place | None:
        return self._known[0].get(number) or self._known[1].get(number)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of all workers, and read what they added."""
        # POSIX locks belong to a process: they exclude other workers, the lock excludes threads.
        with self._lock:
            fcntl.lockf(self._header, fcntl.LOCK_EX)
            try:
                self._follow()
                yield
            finally:
                fcntl.lockf(self._header, fcntl.LOCK_UN)

    def _follow(self) -> None:
        generation, *lengths = _HEADER.unpack(os.pread(self._header, _HEADER.size, 0))
        for half in range(2):
            # The half of a newer generation was emptied since.
            last = generation - (generation - half) % 2
            if last > self._generation - (self._generation - half) % 2:
                self._known[half].clear()
                self._read[half] = 0
            data = os.pread(self._halves[half], lengths[half] - self._read[half], self._read[half])
            self._read[half] += len(data)
            self._known[half].update(_decoded(data))
        self._generation = generation

    def _switch_if_full(self) -> None:
        """Empty the older half, and add to it from now on, if the current one is full."""
        if len(self._known[self._generation % 2]) >= self._capacity:
            self._generation += 1
            half = self._generation % 2
            os.ftruncate(self._halves[half], 0)
            self._known[half].clear()
            self._read[half] = 0
            os.pwrite(self._header, _HEADER.pack(self._generation, *self._read), 0)

    def _append(self, records: Iterable[tuple[int, int, str]]) -> None:
        half = self._generation % 2
        parts = []
        for number, directory, name in records:
            raw = os.fsencode(name)
            parts.append(_RECORD.pack(number, directory, len(raw)) + raw)
            self._known[half][number] = directory, name
        data = b"".join(parts)
        done = 0
        while done < len(data):
            done += os.pwrite(self._halves[half], data[done:], self._read[half] + done)
        self._read[half] += len(data)
        os.pwrite(self._header, _HEADER.pack(self._generation, *self._read), 0)


def _decoded(data: bytes) -> Iterator[tuple[int, Place]]:
    at = 0
    while at < len(data):
        number, directory, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        yield number, (directory, os.fsdecode(data[at : at + length]))
        at += length
