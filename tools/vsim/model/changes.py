"""The answer of QueryChangedDiskAreas: its extents and its pages.

Rules of the answer (vSphere API reference, VirtualMachine.QueryChangedDiskAreas, DiskChangeInfo):
startOffset repeats the request, length is the size of the described range, extents are absolute.
Knobs change the answer or break these rules.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tools.vsim.knobs import CbtKnobs
from tools.vsim.model.hidden import is_hidden
from tools.vsim.model.span import Span, clipped, merged
from tools.vsim.model.tracking import ChangeMap


@dataclass(frozen=True, slots=True)
class Page:
    """One DiskChangeInfo, in bytes."""

    start: int
    length: int
    extents: tuple[Span, ...]


def changed_spans(tracked: ChangeMap, since: int, capacity: int, knobs: CbtKnobs) -> list[Span]:
    """Return the blocks that changed after sequence number *since*; 0 means all blocks in use.

    The last span may extend past the end of the disk.
    """
    size = tracked.granularity
    blocks = set(tracked.blocks_since(since))
    if knobs.silent_misses:
        blocks = {block for block in blocks if not _missed(block, tracked, knobs)}
    if knobs.allocation_misses and since == 0:
        blocks = {b for b in blocks if not is_hidden(b, knobs.allocation_misses)}
    if knobs.false_positives:
        picker = random.Random(f"{knobs.seed}/{tracked.change_id}/{since}")
        count = -(-capacity // size)
        blocks |= {picker.randrange(count) for _ in range(knobs.false_positives)}
    return list(merged(Span(block * size, block * size + size) for block in blocks))


def cut_page(spans: Sequence[Span], offset: int, capacity: int, knobs: CbtKnobs) -> Page:
    """Return the page at *offset*, which must be inside the disk."""
    limit = min(capacity, offset + knobs.page_span) if knobs.page_span else capacity
    rest = list(clipped(spans, Span(offset, limit)))
    if knobs.empty_pages and rest and rest[0].start > offset:
        return _malformed(Page(offset, rest[0].start - offset, ()), capacity, knobs)
    if knobs.empty_pages and rest:
        return _malformed(Page(offset, rest[0].length, (rest[0],)), capacity, knobs)
    end = limit
    taken = rest[: knobs.max_extents]
    if len(rest) > knobs.max_extents:
        last, following = taken[-1].end, rest[knobs.max_extents].start
        end = {"extent-end": last, "next-start": following, "middle": (last + following) // 2}[
            knobs.cut_at
        ]
    return _malformed(Page(offset, end - offset, tuple(taken)), capacity, knobs)


def _missed(block: int, tracked: ChangeMap, knobs: CbtKnobs) -> bool:
    """Return whether the knob hides a change; the result is the same in every query."""
    change = f"{knobs.seed}/{tracked.epoch}/{tracked.changed_at[block]}/{block}"
    number = int.from_bytes(hashlib.sha256(change.encode()).digest()[:8], "big")
    return number < knobs.silent_misses * 2**64


def _malformed(page: Page, capacity: int, knobs: CbtKnobs) -> Page:
    start, length, extents = page.start, page.length, page.extents
    first = extents[0] if extents else Span(start, min(start + knobs.granularity, capacity))
    match knobs.malformed:
        case "echo":
            return Page(start + knobs.granularity, length, extents)
        case "zero-length":
            return Page(start, 0, extents)
        case "overlap":
            return Page(start, length, (first, first, *extents[1:]))
        case "unsorted":
            half = (first.start + first.end) // 2
            pair = (Span(half, first.end), Span(first.start, half))
            return Page(start, length, tuple(reversed(extents)) if len(extents) > 1 else pair)
        case "outside":
            return Page(start, length, (*extents, Span(start + length, start + length + 512)))
        case "past-end":
            return Page(start, length, (*extents[:-1], Span(first.start, capacity + 512)))
        case "empty-extent":
            return Page(start, length, (Span(first.start, first.start), *extents))
    return page
