"""Reasons to read a whole disk: a code for programs, a text for people."""

from dataclasses import dataclass
from enum import StrEnum


class FullReason(StrEnum):
    """Why a whole disk was read.

    The value is a member of manifests (docs/format.md) and a label of metrics (docs/commands.md).
    Values are added, never renamed.
    """

    FIRST = "first"
    """The disk has no earlier restore point."""
    ASKED_FOR = "asked_for"
    """The user asked for a full."""
    AUDIT = "audit"
    """An audit proved that change lists of the disk lack changes."""
    ALLOCATION = "allocation"
    """Areas of the disk that the server called unallocated hold data."""
    HARDWARE = "hardware"
    """The virtual hardware of the VM is too old to track changes."""
    TRACKING_OFF = "tracking_off"
    """Change tracking of the VM is off."""
    TRACKING_RESET = "tracking_reset"
    """Change tracking was reset since the parent point."""
    NOT_TRACKED = "not_tracked"
    """Change tracking of the VM is on, but the disk has no change ID."""
    BASE_UNKNOWN = "base_unknown"
    """The parent point does not record what the source needs for a change list."""
    BASE_DAMAGED = "base_damaged"
    """The parent point, or a manifest that may be the parent's, is damaged."""
    BASE_MISSING = "base_missing"
    """The manifest of the parent point is missing, or no point has the name of the base."""
    BASE_SUSPECT = "base_suspect"
    """The point that the user named as the base is suspect."""
    BASE_UNSUITABLE = "base_unsuitable"
    """The point that the user named as the base is of another VM, or has no such disk."""
    MOVED = "moved"
    """The disk was moved or replaced."""
    RESIZED = "resized"
    """The disk has another size than at the parent point."""
    FOREIGN_SNAPSHOT = "foreign_snapshot"
    """The VM has, or had at the parent point, a snapshot of another program."""
    REVERTED = "reverted"
    """The VM was reverted to a snapshot since the parent point."""
    REVERTS_UNKNOWN = "reverts_unknown"
    """The events that would show a revert are not available."""
    QUERY_FAILED = "query_failed"
    """The source failed to return a change list."""
    LIST_REFUSED = "list_refused"
    """The change list is malformed."""
    LIST_OF_ANOTHER_POINT = "list_of_another_point"
    """The change list starts from another moment than the parent point."""
    NO_LIST = "no_list"
    """The source has no change list."""
    OTHER = "other"
    """A code of a newer program, or a run of an older program that recorded no code."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason to read a whole disk."""

    code: FullReason
    text: str
    """For people only: no program may depend on its wording."""

    def __str__(self) -> str:
        return self.text


def parse_full_reason(value: str) -> FullReason:
    """Return the code with that value, or OTHER for a value that this program does not know."""
    try:
        return FullReason(value)
    except ValueError:
        return FullReason.OTHER
