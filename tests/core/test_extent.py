"""Arithmetic of extents against sets of bytes."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent, between, clip, coalesce, complement, intersect, total, widen

SIZE = 96

EXTENTS = st.lists(st.builds(Extent, st.integers(0, SIZE), st.integers(1, 24)), max_size=8)
OFFSETS = st.integers(0, SIZE + 24)


def covered(extents: Iterable[Extent]) -> set[int]:
    return {at for extent in extents for at in range(extent.start, extent.end)}


def has_gaps(extents: Sequence[Extent]) -> bool:
    """Return whether extents ascend with gaps between them."""
    return all(a.end < b.start for a, b in pairwise(extents))


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (0, 0), (7, -1), (-3, -3)])
def test_an_invalid_extent_is_refused(start: int, length: int) -> None:
    with pytest.raises(ValueError, match="not an extent"):
        Extent(start, length)


@given(OFFSETS, OFFSETS)
def test_between_is_the_range_or_nothing(start: int, end: int) -> None:
    result = list(between(start, end))

    assert covered(result) == set(range(start, end))


@given(EXTENTS)
def test_coalesce_keeps_the_bytes_and_leaves_gaps(extents: list[Extent]) -> None:
    merged = list(coalesce(extents))

    assert covered(merged) == covered(extents)
    assert has_gaps(merged)


@given(EXTENTS, OFFSETS, OFFSETS)
def test_clip_keeps_bytes_within_the_range(extents: list[Extent], start: int, end: int) -> None:
    clipped = list(clip(extents, start, end))

    assert covered(clipped) == covered(extents) & set(range(start, end))


@given(EXTENTS, st.integers(0, SIZE))
def test_complement_is_all_other_bytes(extents: list[Extent], size: int) -> None:
    others = list(complement(extents, size))

    assert covered(others) == set(range(size)) - covered(extents)
    assert has_gaps(others)


@given(EXTENTS, EXTENTS)
def test_intersect_is_the_common_bytes(left: list[Extent], right: list[Extent]) -> None:
    common = list(intersect(left, right))

    assert covered(common) == covered(left) & covered(right)
    assert common == sorted(common)
    assert total(common) == len(covered(common))


@given(EXTENTS, st.integers(1, 17), st.integers(0, SIZE))
def test_widen_covers_every_unit_that_is_touched(
    extents: list[Extent], unit: int, size: int
) -> None:
    units = {at // unit for at in covered(extents)}

    widened = list(widen(extents, unit, size))

    assert covered(widened) == {at for at in range(size) if at // unit in units}
    assert has_gaps(widened)


@given(EXTENTS)
def test_total_counts_the_bytes_of_disjoint_extents(extents: list[Extent]) -> None:
    disjoint = list(coalesce(extents))

    assert total(disjoint) == len(covered(extents))
