"""A disk in memory with snapshots and change tracking."""

from collections.abc import Sequence

from cbtfs.core.extent import Extent, clip
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into

_ALLOCATION_BYTES = 1000
"""Unit of allocation; it neither divides nor is a multiple of any block size."""


class FakeDisk:
    """A bytearray that records the writes between its snapshots."""

    def __init__(self, size: int = 0, name: str = "fake") -> None:
        self.content = bytearray(size)
        self._name = name
        self._log: list[list[Extent]] = [[]]
        """Extents written between consecutive snapshots, and since the last one."""

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, at: int, data: bytes) -> None:
        """Write *data* at *at*, truncated at the end of the disk."""
        data = data[: max(self.size - at, 0)]
        if data:
            self.content[at : at + len(data)] = data
            self._log[-1].append(Extent(at, len(data)))

    def trim(self, at: int, length: int) -> None:
        """Zero a range."""
        self.write(at, bytes(length))

    def resize(self, size: int) -> None:
        """Grow by zeros, or shrink; a removed range counts as written if the disk grows again."""
        if size < self.size:
            self._log[-1].append(Extent(size, self.size - size))
        del self.content[size:]
        self.content.extend(bytes(size - self.size))

    def take_snapshot(self) -> "FakeSnapshot":
        """Return a source of the current content."""
        self._log.append([])
        return FakeSnapshot(self, len(self._log) - 1)

    def written_since(self, number: int) -> list[Extent]:
        """Return the extents written after snapshot *number* in the order of writing; 0: all."""
        return [extent for writes in self._log[number:] for extent in writes]

    def number_of(self, change_id: str | None) -> int:
        """Return the number of the snapshot; ChangeTrackingInvalid for another disk's change ID."""
        name, _, number = (change_id or "").rpartition("/")
        if name != self._name:
            raise ChangeTrackingInvalid(
                f"{change_id} is not a change ID of this disk", FullReason.NO_LIST
            )
        return int(number)

    def change_id(self, number: int) -> str:
        return f"{self._name}/{number}"


class FakeSnapshot:
    """A source: the content of a fake disk at one moment; it records all reads."""

    is_local = False

    def __init__(self, disk: FakeDisk, number: int) -> None:
        self._disk = disk
        self.number = number
        self.content = bytes(disk.content)
        self.size = len(self.content)
        self.change_id = disk.change_id(number)
        self.fetched: list[Extent] = []
        self.is_closed = False

    def is_of(self, disk: FakeDisk) -> bool:
        return self._disk is disk

    def changed(self, since: Since) -> Sequence[Extent]:
        start = self._disk.number_of(since.change_id)
        return list(clip(self._disk.written_since(start), 0, self.size))

    def allocated(self) -> Sequence[Extent]:
        units = range(0, self.size, _ALLOCATION_BYTES)
        return [
            Extent(at, min(_ALLOCATION_BYTES, self.size - at))
            for at in units
            if self.content[at : at + _ALLOCATION_BYTES].strip(b"\0")
        ]

    def read(self, extent: Extent) -> bytes | memoryview:
        if extent.end > self.size:
            raise SourceUnavailable(f"cannot read up to byte {extent.end}")
        self.fetched.append(extent)
        return memoryview(self.content)[extent.start : extent.end]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing: a snapshot does not change."""

    def close(self) -> None:
        self.is_closed = True
