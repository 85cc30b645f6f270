"""A source that is a small file in memory."""

from collections.abc import Sequence

from cbtfs.core.extent import Extent, between
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into


class ContentSource:
    """Bytes in memory, without a change list."""

    is_local = True

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self.size = len(content)

    def changed(self, since: Since) -> Sequence[Extent]:
        raise ChangeTrackingInvalid("it is a small file", FullReason.NO_LIST)

    def allocated(self) -> Sequence[Extent]:
        return list(between(0, self.size))

    def read(self, extent: Extent) -> memoryview:
        if extent.end > self.size:
            raise SourceUnavailable(
                f"cannot read up to byte {extent.end}: the file has {self.size} bytes"
            )
        return self._content[extent.start : extent.end]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing: the bytes cannot change."""

    def close(self) -> None:
        """Do nothing: no file is open."""
