"""Reads and writes that bypass the page cache (O_DIRECT), where the file system supports them.

A restore touches each byte once. Pages for it would displace those of other programs, and to get
them from the kernel can take longer than to decode and verify the data.
"""

import errno
import os
from typing import Final, Self

from cbtfs.native import is_cached

UNIT: Final = 4096
"""Offsets and lengths are multiples of this: the largest logical block size of Linux."""
_NONE: Final = -1


class Direct:
    """A second descriptor of an open file or device, for aligned parts of reads and writes.

    The methods return 0 if the kernel refuses, and the caller uses the page cache instead. Both
    descriptors see the same bytes: the kernel flushes and drops pages of a range that is accessed
    directly.
    """

    def __init__(self, fd: int) -> None:
        self._cached_fd = fd
        self._fd = _NONE
        try:
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return  # not supported here, or no /proc

    @property
    def fd(self) -> int:
        """The descriptor for direct access; -1 if it is not supported here."""
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd != _NONE:
            os.close(self._fd)
            self._fd = _NONE

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write the aligned start of *data*. Return the number of bytes."""
        count = self._aligned(offset, len(data))
        try:
            return os.pwrite(self._fd, memoryview(data)[:count], offset) if count else 0
        except OSError as exc:
            self._refused(exc)
            return 0

    def read(self, offset: int, data: memoryview) -> int:
        """Fill the aligned start of *data* unless all of it is cached. Return the bytes."""
        count = self._aligned(offset, len(data))
        if not count or self._is_cached(offset, len(data)):
            return 0
        try:
            return os.preadv(self._fd, [data[:count]], offset)
        except OSError as exc:
            self._refused(exc)
            return 0

    def _is_cached(self, offset: int, length: int) -> bool:
        try:
            return is_cached(self._cached_fd, offset, length)
        except OSError:
            return False  # it cannot be mapped

    def _aligned(self, offset: int, length: int) -> int:
        if self._fd == _NONE or offset % UNIT:
            return 0
        return length // UNIT * UNIT

    def _refused(self, exc: OSError) -> None:
        """Raise *exc* unless it says that direct access is not supported."""
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise exc
