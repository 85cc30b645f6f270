"""The protocol of sources, which an ingest reads, and of their wrappers."""

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
    """Raised when the run is cancelled: nothing more is read, nothing is committed."""


@dataclass(frozen=True, slots=True)
class Since:
    """The restore point that a list of changes must start from."""

    point: PointId
    change_id: str | None
    """Token of the source, as recorded in the point."""
    size: int
    """Size of the disk at that point, in bytes."""
    is_last_committed: bool
    """No later point of this disk was ever committed, not even one that was forgotten."""
    last: str = "was forgotten"
    """State of the last committed point if it is another one, for a message."""


class DiskSource(Protocol):
    """One virtual disk at one moment, with its list of changes.

    read() may be called from several threads at once; extents may have any alignment.
    """

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_local(self) -> bool:
        """A read costs no round trip, so small reads are as fast as large ones."""

    def changed(self, since: Since) -> Sequence[Extent]:
        """Return all extents that may differ from the disk at *since*.

        In any order, within the disk; they may overlap, and need not cover space beyond the old
        size. Raises ChangeTrackingInvalid when the answer cannot be trusted; then the whole disk
        is read.
        """

    def allocated(self) -> Sequence[Extent]:
        """Return the extents outside of which the disk reads as zeros: ascending, disjoint."""

    def read(self, extent: Extent) -> bytes | memoryview:
        """Return exactly extent.length bytes; raise SourceUnavailable if that is impossible."""

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Fill *parts*, together extent.length bytes, with the bytes that read() returns.

        Raises what read() raises; then the content of *parts* is undefined.
        """

    def confirm(self) -> None:
        """Raise SourceMismatch if the disk has changed since it was opened."""

    def close(self) -> None:
        """Close the disk."""


def copy_into(data: bytes | memoryview, parts: Sequence[memoryview]) -> None:
    """Copy *data* into *parts*, one after the other.

    Raises:
        SourceUnavailable: data has another length than all parts together.
    """
    length = sum(len(part) for part in parts)
    if len(data) != length:
        raise SourceUnavailable(f"short read: {len(data)} of {length} bytes")
    view = memoryview(data)
    for part in parts:
        part[:] = view[: len(part)]
        view = view[len(part) :]
