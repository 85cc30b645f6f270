"""What an ingest reads: the protocol that every source keeps, wrappers included."""

from collections.abc import Callable, Sequence
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

    def confirm(self) -> None:
        """Raise SourceMismatch if the disk did not stay as it was since it was opened."""

    def close(self) -> None:
        """Let go of the disk."""


ReadInto = Callable[[Extent, Sequence[memoryview]], None]
"""Fills memory, together as long as the extent is, with its bytes; raises what read() raises."""


def direct(source: DiskSource) -> ReadInto | None:
    """How to have *source* put bytes where they are wanted: its read_into, if it has that.

    It may be None, and it takes requests of any length.
    """
    found: ReadInto | None = getattr(source, "read_into", None)
    return found
