"""A disk of a restore point as a binary file object."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from cbtfs.api.read_ahead import PIECE_BYTES, ReadAhead, read_parallel
from cbtfs.difference import differing
from cbtfs.errors import UsageError
from cbtfs.reader import Disk

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from _typeshed import ReadableBuffer, WriteableBuffer

_PARALLEL_BYTES: Final = 2 * PIECE_BYTES
"""Size of a read that several threads carry out."""


class Extent(NamedTuple):
    """A byte range of a disk, in bytes."""

    start: int
    length: int
    is_data: bool
    """False if the range reads as zeros."""


class Change(NamedTuple):
    """A byte range in which two disks may differ, in bytes."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Readers:
    """The two readers of a repository for one disk, and the threads."""

    cached: Disk
    """For reads at an offset: it keeps decoded chunks."""
    uncached: Disk
    """For sequential reads, which need each chunk once."""
    pool: ThreadPoolExecutor
    check: Callable[[], None]
    """Raises ValueError if the repository is closed or belongs to another process."""


class DiskFile(io.RawIOBase):
    """A disk at a restore point: a binary file object that is open for reading.

    All bytes are verified before they are returned. The point stays readable until the file is
    closed, whatever is forgotten and pruned meanwhile. Several threads may call `read_at()` and
    `readinto_at()` at once; one thread at a time may call the methods that use the position.

    A read raises ChunkMissing if stored data is missing, and DataCorrupt if a byte cannot be
    verified.
    """

    def __init__(self, readers: Readers, lease: ExitStack) -> None:
        super().__init__()
        self._readers = readers
        self._lease = lease
        self._size = readers.cached.size
        self._position = 0
        self._last_end = 0
        self._ahead = ReadAhead(readers.uncached.read_into, self._size, readers.pool)

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""
        return self._size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> NoReturn:
        """Raise io.UnsupportedOperation: a restore point never changes."""
        self._check()
        raise io.UnsupportedOperation("not writable")

    def truncate(self, size: int | None = None, /) -> NoReturn:
        """Raise io.UnsupportedOperation: a restore point never changes."""
        self._check()
        raise io.UnsupportedOperation("not writable")

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position, which may be beyond the end. Return the new position.

        Raises:
            ValueError: the position is negative, or *whence* is not 0, 1 or 2.
        """
        self._check()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"invalid whence {whence}: use 0, 1 or 2")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill *buffer* from the position, and move it. Return the number of bytes.

        It is less than the length of *buffer* only at the end of the disk.
        """
        self._check()
        target = self._clipped(self._position, buffer)
        if not target:
            return 0
        if len(target) >= _PARALLEL_BYTES:
            read_parallel(
                self._readers.uncached.read_into, self._position, target, self._readers.pool
            )
        elif self._position == self._last_end:
            self._ahead.read(self._position, target)
        else:
            self._ahead.drop()
            self._readers.cached.read_into(self._position, target)
        self._position += len(target)
        self._last_end = self._position
        return len(target)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to *size* bytes from the position, and move it.

        Without *size*, the rest of the disk, which must fit into memory. The result is shorter
        than *size* only at the end of the disk.
        """
        rest = max(self._size - self._position, 0)
        length = rest if size is None or size < 0 else min(size, rest)
        data = bytearray(length)
        self.readinto(data)
        return bytes(data)

    def readall(self) -> bytes:
        """Return the rest of the disk."""
        return self.read()

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length), fewer only at the end of the disk.

        The position does not matter and stays. Several threads may call this at once.

        Raises:
            ValueError: *offset* or *length* is negative, or the file is closed.
        """
        if length < 0:
            raise ValueError(f"negative length {length}")
        data = bytearray(max(min(length, self._size - offset), 0))
        self.readinto_at(offset, data)
        return bytes(data)

    def readinto_at(self, offset: int, buffer: WriteableBuffer) -> int:
        """Fill *buffer* from *offset*. Return the number of bytes, fewer only at the end.

        Several threads may call this at once, with a buffer each.

        Raises:
            ValueError: *offset* is negative, or the file is closed.
        """
        self._check()
        if offset < 0:
            raise ValueError(f"negative offset {offset}")
        target = self._clipped(offset, buffer)
        if len(target) >= _PARALLEL_BYTES:
            read_parallel(self._readers.uncached.read_into, offset, target, self._readers.pool)
        elif target:
            self._readers.cached.read_into(offset, target)
        return len(target)

    def extents(self) -> Iterator[Extent]:
        """Yield the data and zero extents, which cover the disk in ascending order.

        Only the block map is read.
        """
        self._check()
        at = 0
        for extent in self._readers.cached.data():
            if at < extent.start:
                yield Extent(at, extent.start - at, False)
            yield Extent(extent.start, extent.length, True)
            at = extent.end
        if at < self._size:
            yield Extent(at, self._size - at, False)

    def diff(self, other: DiskFile) -> Iterator[Change]:
        """Yield the byte ranges that differ from *other*, ascending: whole blocks.

        Only block maps are read. If the sizes differ, the end of the larger disk counts as
        different.

        Raises:
            UsageError: the block sizes differ.
        """
        self._check()
        other._check()
        try:
            changes = differing(self._readers.cached, other._readers.cached)
        except ValueError as exc:
            raise UsageError(f"cannot compare: {exc}") from exc
        for extent in changes:
            yield Change(extent.start, extent.length)

    def close(self) -> None:
        """Close the file, and let go of the point."""
        if not self.closed:
            self._ahead.drop()
            self._lease.close()
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self._readers.check()

    def _clipped(self, offset: int, buffer: WriteableBuffer) -> memoryview:
        """Return the part of *buffer* that the disk can fill from *offset*."""
        return memoryview(buffer).cast("B")[: max(self._size - offset, 0)]
