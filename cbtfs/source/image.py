"""A raw file or a block device as a source."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason
from cbtfs.errors import AccessDenied, SourceMismatch, SourceUnavailable, UsageError
from cbtfs.source.base import ChangeTrackingInvalid, Since

_BLKROGET: Final = 0x125E
"""ioctl that reports whether a block device is read-only (linux/fs.h)."""
_MOST_PARTS: Final = 512
"""Maximum number of buffers in one system call; Linux accepts 1,024."""


class ImageSource:
    """A raw disk image; its holes read as zeros."""

    is_local = True

    def __init__(self, path: Path) -> None:
        """Open the file or device at *path*; it should not change until close()."""
        self._name = printable(str(path))
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError as exc:
            raise AccessDenied(f"cannot read {self._name}: {exc.strerror}") from exc
        except OSError as exc:
            raise SourceUnavailable(f"cannot open {self._name}: {exc.strerror}") from exc
        try:
            self._facts = os.fstat(self._fd)
            self._is_device = stat.S_ISBLK(self._facts.st_mode)
            if not self._is_device and not stat.S_ISREG(self._facts.st_mode):
                raise UsageError(f"{self._name} is neither a file nor a block device")
            self.is_file = not self._is_device
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            self._claim = self._claimed() if self._is_device else None
        except BaseException:
            os.close(self._fd)
            raise

    def _claimed(self) -> int | None:
        """Return a descriptor that prevents mounts of the device; None if it is in use."""
        try:
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                return None
            raise SourceUnavailable(f"cannot open {self._name}: {exc.strerror}") from exc

    def changed(self, since: Since) -> Sequence[Extent]:
        raise ChangeTrackingInvalid("no change list", FullReason.NO_LIST)

    def allocated(self) -> Sequence[Extent]:
        """Return the data by SEEK_DATA and SEEK_HOLE; the whole disk for a device or an error."""
        whole = [Extent(0, self.size)] if self.size else []
        if self._is_device:
            return whole
        extents = []
        at = 0
        try:
            while at < self.size:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                at = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.size)
                if start < at:
                    extents.append(Extent(start, at - start))
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                return whole
        return extents

    def read(self, extent: Extent) -> bytes:
        parts = []
        at = extent.start
        while at < extent.end:
            with self._reading(at):
                data = os.pread(self._fd, extent.end - at, at)
            self._expect_more(len(data), at)
            parts.append(data)
            at += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Fill *parts*, together extent.length bytes; raise SourceUnavailable if that fails."""
        at, left = extent.start, list(parts)
        while left:
            with self._reading(at):
                count = os.preadv(self._fd, left[:_MOST_PARTS], at)
            self._expect_more(count, at)
            at += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]

    @contextmanager
    def _reading(self, at: int) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise SourceUnavailable(f"cannot read {self._name} at {at}: {exc.strerror}") from exc

    def _expect_more(self, count: int, at: int) -> None:
        if not count:
            raise SourceUnavailable(f"{self._name} ends at {at} instead of {self.size} bytes")

    def confirm(self) -> None:
        """Raise SourceMismatch if the file's size or mtime changed during the capture.

        A device has no mtime; a device in use (mounted, part of another) may be written to.
        """
        if self._is_device:
            if self._claim is None and not self._is_read_only():
                raise SourceMismatch(
                    f"{self._name} is in use (mounted, swap, or part of another device): release "
                    "it, capture a snapshot of the device, or give --allow-changing"
                )
            return
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._facts.st_size, self._facts.st_mtime_ns):
            raise SourceMismatch(
                f"{self._name} changed while it was read: stop its writer, capture a snapshot of "
                "the file, or give --allow-changing"
            )

    def _is_read_only(self) -> bool:
        answer = fcntl.ioctl(self._fd, _BLKROGET, struct.pack("i", 0))
        return bool(struct.unpack("i", answer)[0])

    def close(self) -> None:
        os.close(self._fd)
        if self._claim is not None:
            os.close(self._claim)
