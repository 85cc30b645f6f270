"""A disk in memory with snapshots and a change tracker of its own."""

from collections.abc import Sequence

from cbtfs.core.extent import Extent, clip
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into

_ALLOCATION_BYTES = 1000
"""What a part of the disk is allocated in: no divisor or multiple of any block size."""


class FakeDisk:
    """A bytearray that remembers what was written between its snapshots."""

    def __init__(self, size: int = 0, name: str = "fake") -> None:
        self.content = bytearray(size)
        self._name = name
        self._log: list[list[Extent]] = [[]]
        """For each snapshot, and for now, what was written since the one before."""

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, at: int, data: bytes) -> None:
        """Put *data* at *at*; what would reach beyond the end is cut."""
        data = data[: max(self.size - at, 0)]
        if data:
            self.content[at : at + len(data)] = data
            self._log[-1].append(Extent(at, len(data)))

    def trim(self, at: int, length: int) -> None:
        """Zero a range."""
        self.write(at, bytes(length))

    def resize(self, size: int) -> None:
        """Grow by zeros, or shrink: what is cut has changed, should it come back."""
        if size < self.size:
            self._log[-1].append(Extent(size, self.size - size))
        del self.content[size:]
        self.content.extend(bytes(size - self.size))

    def take_snapshot(self) -> "FakeSnapshot":
        """The disk as it is now."""
        self._log.append([])
        return FakeSnapshot(self, len(self._log) - 1)

    def written_since(self, number: int) -> list[Extent]:
        """What was written after snapshot *number*, as it was written; 0: since it was made."""
        return [extent for each in self._log[number:] for extent in each]

    def number_of(self, change_id: str | None) -> int:
        """The snapshot of that change ID; ChangeTrackingInvalid if it is none of this disk's."""
        name, _, number = (change_id or "").rpartition("/")
        if name != self._name:
            raise ChangeTrackingInvalid(
                f"{change_id} is no change ID of this disk", FullReason.NO_LIST
            )
        return int(number)

    def change_id(self, number: int) -> str:
        return f"{self._name}/{number}"


class FakeSnapshot:
    """A source: a fake disk frozen at one moment, that counts what is read of it."""

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
            raise SourceUnavailable(f"nothing at {extent.end}")
        self.fetched.append(extent)
        return memoryview(self.content)[extent.start : extent.end]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """A snapshot stays as it is."""

    def close(self) -> None:
        self.is_closed = True
