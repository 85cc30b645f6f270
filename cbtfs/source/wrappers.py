"""Sources that wrap another source and add one property."""

from collections.abc import Sequence

from cbtfs.core.extent import Extent, between
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource, Since, copy_into


class WrappedSource:
    """A source that delegates to another one; subclasses override methods."""

    def __init__(self, source: DiskSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def is_local(self) -> bool:
        return self._source.is_local

    def changed(self, since: Since) -> Sequence[Extent]:
        return self._source.changed(since)

    def allocated(self) -> Sequence[Extent]:
        return self._source.allocated()

    def read(self, extent: Extent) -> bytes | memoryview:
        return self._source.read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Copy what read() returns, so that a wrapper that overrides read() changes both."""
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        self._source.confirm()

    def close(self) -> None:
        self._source.close()


class CheckedSource(WrappedSource):
    """Enforces the protocol: a constant size, exact reads, extents within the disk."""

    def __init__(self, source: DiskSource) -> None:
        super().__init__(source)
        self._size = source.size

    @property
    def size(self) -> int:
        return self._size

    def changed(self, since: Since) -> Sequence[Extent]:
        extents = self._source.changed(since)
        for extent in extents:
            if extent.end > self.size:
                raise ChangeTrackingInvalid(
                    f"the change list ends at {extent.end}, beyond the disk's {self.size} bytes",
                    FullReason.LIST_REFUSED,
                )
        return extents

    def allocated(self) -> Sequence[Extent]:
        """Return the allocated extents; the whole disk if the source's answer is invalid."""
        extents = self._source.allocated()
        at = 0
        for extent in extents:
            if extent.start < at or extent.end > self.size:
                return list(between(0, self.size))
            at = extent.end
        return extents

    def read(self, extent: Extent) -> bytes | memoryview:
        data = self._source.read(extent)
        if len(data) != extent.length:
            raise SourceUnavailable(
                f"short read: {len(data)} of {extent.length} bytes at {extent.start}"
            )
        return data

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Delegate to the source; the length of *parts* needs no check."""
        self._source.read_into(extent, parts)


class ChangingSource(WrappedSource):
    """Accepts a source that changes during the capture: the point may be inconsistent."""

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        self._source.read_into(extent, parts)

    def confirm(self) -> None:
        """Do nothing: changes are accepted."""
