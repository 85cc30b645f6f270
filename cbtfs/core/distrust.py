"""The durable record that a disk's change lists lack changes (docs/format.md)."""

from dataclasses import asdict, dataclass, replace
from typing import Final

from cbtfs.core.fields import MAX_INTEGER, id_of, integer, moment, optional, text, truth
from cbtfs.core.ids import DiskId, PointId
from cbtfs.core.sealed import seal, unseal

DISTRUST_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Distrust:
    """Proof that change lists of a disk relative to a point up to *order* lack changes."""

    disk: DiskId
    base: PointId | None
    """The point that the audited list was relative to; None if the record cannot be read."""
    order: int
    """Order number of the newest point whose change lists lack changes."""
    change_id: str | None
    """Change ID of *base*: the epoch of the change tracking that missed changes."""
    run: str | None
    """The run that detected the miss."""
    found: str | None
    """The moment that the audited disk showed: RFC 3339, UTC."""
    blocks: int | None = None
    """Blocks known to be missed; None if the run ended before it could record the number."""
    is_confirmed: bool = False
    """Whether the source confirmed later that the disk did not change during the audit."""
    trusted_from: int | None = None
    """Order number of the first full scan since then, from which lists are trusted again."""
    is_allocation: bool = False
    """The missed blocks are in areas that the server called unallocated."""

    def covers(self, order: int, *, is_full: bool) -> bool:
        """Return whether change lists relative to the point with this *order* are distrusted.

        A point that *is_full* and later than the record's base was read whole. It is correct
        although earlier lists lacked changes, even if the record does not know the point.
        """
        if self.trusted_from is not None:
            return order < self.trusted_from
        return not (is_full and order > self.order)

    def trusting_from(self, order: int) -> "Distrust":
        """Return the record after a full scan with this order number was committed."""
        return replace(self, trusted_from=order)


def unreadable(disk: DiskId) -> Distrust:
    """Return the substitute for a damaged record: no change list of the disk is trusted."""
    return Distrust(disk, None, MAX_INTEGER, None, None, None)


def encode_distrust(record: Distrust) -> bytes:
    """Return the bytes of the record's sealed file."""
    return seal({"format": DISTRUST_FORMAT, **asdict(record)})


def decode_distrust(data: bytes, disk: DiskId) -> Distrust:
    """Return the record of *disk* in a sealed file; ValueError if damaged or another disk's."""
    document = unseal(data)
    if integer(document, "format") != DISTRUST_FORMAT:
        raise ValueError("unknown format")
    if id_of(document, "disk") != disk:
        raise ValueError("record of another disk")
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
        is_allocation=bool(optional(document, "is_allocation", truth)),
    )
