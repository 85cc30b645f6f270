"""Bytes that the parsers read: a disk, or a partition of one."""

from dataclasses import dataclass
from typing import Protocol


class Source(Protocol):
    """A disk or a part of one."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length), fewer only at the end.

        Raises:
            CbtfsError: the bytes cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Part:
    """A range of another source."""

    source: Source
    start: int
    size: int

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length) of the range, fewer only at its end."""
        length = min(length, self.size - offset)
        return self.source.read(self.start + offset, length) if length > 0 else b""


def read_bytes(source: Source, offset: int, length: int) -> bytes:
    """Return bytes of *source*; none if *offset* is outside, fewer at the end."""
    if not 0 <= offset < source.size or length <= 0:
        return b""
    return bytes(source.read(offset, length))
