"""The durable record that a disk's change lists lack changes (docs/format.md)."""

from dataclasses import asdict, dataclass, replace
from typing import Final

from cbtfs.core.fields import MAX_INTEGER, id_of, integer, moment, optional, text, truth
from cbtfs.core.ids import DiskId, PointId
from cbtfs.core.sealed import seal, unseal

DISTRUST_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Distrust:
    """Change lists of one disk since a point up to *order* are known to lack changes."""

    disk: DiskId
    base: PointId | None
    """The point that the audited list was relative to; None if the record cannot be read."""
    order: int
    """Order number within the VM of the newest point, lists since which lack changes."""
    change_id: str | None
    """Change ID of *base*: the epoch of the change tracking that missed changes."""
    run: str | None
    """The run that found it."""
    found: str | None
    """The moment that the audited disk showed: RFC 3339, UTC."""
    blocks: int | None = None
    """Blocks known to be missed; None if the run ended before it could record the number."""
    is_confirmed: bool = False
    """The source confirmed afterwards that the disk had not changed while it was audited."""
    trusted_from: int | None = None
    """Order number of the first full scan committed since: lists since it are trusted again."""

    def covers(self, order: int, *, is_full: bool) -> bool:
        """Whether lists since the point of that *order* are distrusted.

        A point that *is_full* and later than the record's base was read whole: it is correct
        whatever the lists before it lacked, even if the record does not know of it.
        """
        if self.trusted_from is not None:
            return order < self.trusted_from
        return not (is_full and order > self.order)

    def trusting_from(self, order: int) -> "Distrust":
        """The record once a full scan with that order number is committed."""
        return replace(self, trusted_from=order)


def unreadable(disk: DiskId) -> Distrust:
    """The meaning of a damaged record: no list of the disk is trusted."""
    return Distrust(disk, None, MAX_INTEGER, None, None, None)


def encode_distrust(record: Distrust) -> bytes:
    """The bytes of the record's sealed file."""
    return seal({"format": DISTRUST_FORMAT, **asdict(record)})


def decode_distrust(data: bytes, disk: DiskId) -> Distrust:
    """The record of *disk* in a sealed file; ValueError if it is damaged or another disk's."""
    document = unseal(data)
    if integer(document, "format") != DISTRUST_FORMAT:
        raise ValueError("it has another format")
    if id_of(document, "disk") != disk:
        raise ValueError("it is the record of another disk")
    base = optional(document, "base", id_of)
    return Distrust(
        disk=disk,
        base=None if base is None else PointId(base),
        order=integer(document, "order"),
        change_id=optional(document, "change_id", text),
        run=optional(document, "run", id_of),
        found=optional(document, "found", moment),
        blocks=optional(document, "blocks", integer),
        is_confirmed=truth(document, "is_confirmed"),
        trusted_from=optional(document, "trusted_from", integer),
    )
