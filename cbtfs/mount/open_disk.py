"""A disk of a leased point. Its errors name the point and the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbtfs.core.ids import PointId
from cbtfs.core.names import printable
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Disk

if TYPE_CHECKING:
    from array import array


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk of a leased point."""

    point: PointId
    label: str
    disk: Disk

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return what Disk.read() returns, of the right length: fewer bytes mean the end."""
        expected = max(min(length, self.disk.size - offset), 0)
        with self._naming():
            data = self.disk.read(offset, length)
            if len(data) != expected:
                raise DataCorrupt(f"{len(data)} bytes read at {offset}, {expected} expected")
        return data

    def data_masks(self, offset: int) -> tuple[int, array[int], int]:
        """Return what Disk.data_masks() returns."""
        with self._naming():
            return self.disk.data_masks(offset)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Add point and disk to the message of an error."""
        try:
            yield
        except (ChunkMissing, DataCorrupt) as exc:
            failure = ChunkMissing if isinstance(exc, ChunkMissing) else DataCorrupt
            raise failure(
                f"cannot read point {self.point}, disk {printable(self.label)}: {exc}"
            ) from exc
