"""What an ingest reads: the protocol that every source keeps, wrappers included."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import ChangeTrackingUnusable, SourceUnavailable


class ChangeTrackingInvalid(ChangeTrackingUnusable):
    """Raised when a change list is unavailable or cannot be trusted.

    The message is the text of the reason, for people only; *code* is the reason for programs.
    """

    def __init__(self, text: str, code: FullReason) -> None:
        super().__init__(text)
        self.code = code

    @property
    def reason(self) -> Reason:
        """The reason to read the whole disk."""
        return Reason(self.code, str(self))


class Stopped(SourceUnavailable):
    """The run is to end before its time: nothing more is read, nothing is committed."""


@dataclass(frozen=True, slots=True)
class Since:
    """The restore point that a list of changes must start from."""

    point: PointId
    change_id: str | None
    """The source's own token, as the point recorded it."""
    size: int
    """Of the disk at that point, in bytes."""
    is_last_committed: bool
    """No later point of this disk was ever committed, not even one that was forgotten."""
    last: str = "was forgotten"
    """What became of the last committed point where that is another one, for a message."""


class DiskSource(Protocol):
    """One virtual disk, frozen at one moment, with its list of changes.

    read() may be called from several threads at once; extents may have any alignment.
    """

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_local(self) -> bool:
        """A read costs no round trip, so small reads are as fast as large ones."""

    def changed(self, since: Since) -> Sequence[Extent]:
        """Extents that may differ from what the disk was at *since*, never too few.

        In any order, overlapping or not, within the disk; what lies beyond the old size need not
        be listed. Raises ChangeTrackingInvalid when the answer cannot be trusted; then everything
        is read.
        """

    def allocated(self) -> Sequence[Extent]:
        """Extents outside of which the disk is known to read as zeros: ascending, disjoint."""

    def read(self, extent: Extent) -> bytes | memoryview:
        """Exactly extent.length bytes, or SourceUnavailable."""

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Fill *parts*, together extent.length bytes, with the bytes that read() returns.

        Raises what read() raises; then the content of *parts* is undefined.
        """

    def confirm(self) -> None:
        """Raise SourceMismatch if the disk did not stay as it was since it was opened."""

    def close(self) -> None:
        """Let go of the disk."""


def copy_into(data: bytes | memoryview, parts: Sequence[memoryview]) -> None:
    """Copy *data* into *parts*, one after the other.

    Raises:
        SourceUnavailable: data has another length than all parts together.
    """
    length = sum(len(part) for part in parts)
    if len(data) != length:
        raise SourceUnavailable(f"{length} bytes wanted, {len(data)} read")
    view = memoryview(data)
    for part in parts:
        part[:] = view[: len(part)]
        view = view[len(part) :]
