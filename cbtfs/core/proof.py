"""The proof of a point: the highest level of tests that it has passed, in its state file."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from cbtfs.core.fields import Document, integer, moment, optional, text, texts

PROVEN: Final = 3
"""Level from which a point counts as proven."""
MAX_NOTES: Final = 16
MAX_NOTE: Final = 120
"""Characters of a note."""
_NOT_RECORDED: Final = "not recorded, because capture keys could read it; run 'cbtfs prove'"


@dataclass(frozen=True, slots=True)
class Proof:
    """The last proof of a point that counts."""

    level: int | None
    """Highest level that the point passed; None if level 0 failed."""
    time: str
    """When it passed that level, or failed: RFC 3339, UTC."""
    attempted: str
    """When a proof was last tried: RFC 3339, UTC."""
    program: str
    failure: str | None = None
    """Why the next level failed; None if no level failed."""
    obstacle: str | None = None
    """Why a level could not be tested at the last attempt."""
    verdict: str | None = None
    """State that the guest reached in the last boot."""
    restore_milliseconds: int | None = None
    """Measured time in which all data of the point was read and verified."""
    notes: tuple[str, ...] = ()
    """A line for each tested part."""

    @property
    def is_proven(self) -> bool:
        """Whether the point has passed the check of its file systems."""
        return self.level is not None and self.level >= PROVEN

    def after(self, earlier: "Proof | None") -> "Proof":
        """Return the record after this attempt.

        The data of a point never changes, so an attempt that tested less, without a failure,
        neither lowers an earlier level nor replaces an earlier failure.
        """
        if earlier is None:
            return self
        restored = self.restore_milliseconds
        if restored is None:
            restored = earlier.restore_milliseconds
        rank = -1 if self.level is None else self.level
        was = -1 if earlier.level is None else earlier.level
        is_less = self.failure is None and rank < was + (earlier.failure is not None)
        kept = earlier if is_less else self
        return replace(
            kept,
            attempted=self.attempted,
            obstacle=self.obstacle,
            restore_milliseconds=restored,
            verdict=kept.verdict or earlier.verdict if self.failure is None else self.verdict,
        )

    def without_quotes(self) -> "Proof":
        """Return the record without texts of programs, which may quote content of the guest."""
        return replace(
            self, failure=_level_of(self.failure), obstacle=_level_of(self.obstacle), notes=()
        )


def _level_of(text: str | None) -> str | None:
    """Return the beginning of a failure or an obstacle, which names the level."""
    return None if text is None else f"{text.partition(': ')[0]}: {_NOT_RECORDED}"


def document_of(proof: Proof) -> dict[str, Any]:
    """Return the document of a proof; proof_of() reads it."""
    return {**asdict(proof), "notes": list(proof.notes)}


def proof_of(document: Document) -> Proof:
    """Return the proof in a parsed *document*; ValueError if it is invalid."""
    return Proof(
        level=optional(document, "level", integer),
        time=moment(document, "time"),
        attempted=moment(document, "attempted"),
        program=text(document, "program"),
        failure=optional(document, "failure", text),
        obstacle=optional(document, "obstacle", text),
        verdict=optional(document, "verdict", text),
        restore_milliseconds=optional(document, "restore_milliseconds", integer),
        notes=tuple(optional(document, "notes", texts) or ()),
    )


def bounded(notes: list[str]) -> tuple[str, ...]:
    """Return notes that a state file can hold, with the number of those that are left out."""
    short = [note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…" for note in notes]
    if len(short) <= MAX_NOTES:
        return tuple(short)
    return (*short[: MAX_NOTES - 1], f"and {len(short) - MAX_NOTES + 1} more")
