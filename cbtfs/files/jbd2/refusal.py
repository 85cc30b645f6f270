"""The reasons for which a journal is not replayed."""

from enum import StrEnum

from cbtfs.errors import CbtfsError


class Reason(StrEnum):
    """Why a journal was not replayed. All but DAMAGED mean that another engine may read it."""

    EXTERNAL = "the journal is on another device"
    FAST_COMMIT = "the journal has fast commits"
    UNKNOWN_FEATURE = "unknown feature"
    TOO_LARGE = "the journal is too large"
    DAMAGED = "the journal is damaged"


class ReplayRefused(CbtfsError):
    """Raised if a journal cannot be replayed. Its files must not be listed without the replay."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason


def damaged(detail: str) -> ReplayRefused:
    """Return the error for bytes that no intact journal has."""
    return ReplayRefused(Reason.DAMAGED, detail)
