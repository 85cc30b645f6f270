"""The areas that a full did not read because the server called them unallocated.

Change tracking never reports an area that does not change. So if the server is wrong about such an
area, its data is missing from every later point. The areas are *unproven* until a run has read them
and compared them with the stored content (docs/decisions/0029).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cbtfs.core.extent import Extent, coalesce, complement, intersect, total
from cbtfs.core.fields import Document, integer, items, optional, text

MAX_AREAS: Final = 256
"""Maximum number of unproven areas in a record: about 12 KiB of a manifest for each disk."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """The record in a point of the areas of one disk that were not read."""

    method: str
    """Source of the areas: "transport" or "star"; "none" if no source was queried."""
    skipped: int
    """Bytes of the areas that were unproven after the last full."""
    unproven: tuple[Extent, ...] = ()
    """Areas that were not compared since: ascending, disjoint."""
    sampled: int = 0
    """Blocks that this run read although the server called them unallocated."""
    mismatches: int = 0
    """Blocks of these that differ from the expected content."""
    read_bytes: int = 0
    """Bytes read for that."""
    refused: str | None = None
    """Why the server was not asked, or its answer was not used."""

    @property
    def unproven_bytes(self) -> int:
        return total(self.unproven)

    def proven_share(self, size: int) -> float:
        """Return the share of a disk of *size* bytes that was compared with the source."""
        return 1.0 if not size else 1 - self.unproven_bytes / size


def allocation_of(document: Document) -> Allocation:
    """Return the record in a member of a manifest; ValueError if it is invalid."""
    areas = [Extent(integer(a, "start"), integer(a, "length")) for a in items(document, "unproven")]
    if any(a.end > b.start for a, b in pairwise(areas)):
        raise ValueError("unproven areas overlap or are not ascending")
    return Allocation(
        method=text(document, "method"),
        skipped=integer(document, "skipped"),
        unproven=tuple(areas),
        sampled=integer(document, "sampled"),
        mismatches=integer(document, "mismatches"),
        read_bytes=integer(document, "read_bytes"),
        refused=optional(document, "refused", text),
    )


def skipped_areas(read: Iterable[Extent], size: int, most: int = MAX_AREAS) -> tuple[Extent, ...]:
    """Return the unproven areas of a disk of which only *read* was read, at most *most* of them.

    If there are more, the smallest read parts between them count as unproven, too.
    """
    areas = list(complement(read, size))
    return _bounded(areas, [Extent(0, size)] if size else [], most)


def remaining(
    unproven: Sequence[Extent], read: Sequence[Extent], most: int = MAX_AREAS
) -> tuple[Extent, ...]:
    """Return *unproven* without the bytes of *read*, at most max(*most*, len(*unproven*)) areas.

    If there were more, the smallest parts between them stay unproven: never a part before the
    first area or outside of *unproven*.
    """
    if not unproven:
        return ()
    areas = list(intersect(unproven, complement(read, unproven[-1].end)))
    return _bounded(areas, unproven, most)


def _bounded(areas: list[Extent], within: Sequence[Extent], most: int) -> tuple[Extent, ...]:
    """Join *areas* across the smallest gaps that lie in one extent of *within*."""
    if len(areas) <= most:
        return tuple(areas)
    gaps = [Extent(a.end, b.start - a.end) for a, b in pairwise(areas) if b.start > a.end]
    starts = [extent.start for extent in within]
    inside = [gap for gap in gaps if gap.end <= within[bisect_right(starts, gap.start) - 1].end]
    inside.sort(key=lambda gap: gap.length)
    return tuple(coalesce([*areas, *inside[: len(areas) - most]]))
