"""Why a disk was read whole, in one word of a few: reasons name disks and times without end."""

from typing import Final

_BEFORE: Final = "compared by digest: "
OTHER: Final = "other"
_CLASSES: Final = (
    ("first restore point", "first"),
    ("a full was asked for", "asked_for"),
    ("change tracking missed", "audit"),
    ("its virtual hardware", "hardware"),
    ("change tracking is off", "tracking_off"),
    ("change tracking was enabled and is off", "tracking_off"),
    ("change tracking started anew", "tracking_reset"),
    ("the change ID did not go up", "tracking_reset"),
    ("it is not tracked", "not_tracked"),
    ("the snapshot has no change ID", "not_tracked"),
    ("the last point has no change ID", "base_unknown"),
    ("the last point does not tell", "base_unknown"),
    ("the disk was", "moved"),
    ("the disk had", "resized"),
    ("the VM has a snapshot", "foreign_snapshot"),
    ("at the last point the VM had a snapshot", "foreign_snapshot"),
    ("the VM was reverted", "reverted"),
    ("the VM's events", "reverts_unknown"),
    ("the last point is older", "reverts_unknown"),
    ("the change query failed", "query_failed"),
    ("the change list is not believed", "list_refused"),
    ("the change list reaches", "list_refused"),
    ("the change list is since", "list_of_another_point"),
    ("the bitmap", "list_of_another_point"),
    ("no change list", "no_list"),
    ("no dirty bitmap", "no_list"),
    ("the manifest of this disk's newest point", "base_missing"),
    ("the point", "base_damaged"),
)


def class_of(reason: str) -> str:
    """One of a few words for *reason*, as a manifest has it of a disk."""
    text = reason.removeprefix(_BEFORE)
    for start, word in _CLASSES:
        if text.startswith(start):
            return word
    return "base_damaged" if text.endswith("it may be this disk's newest") else OTHER
