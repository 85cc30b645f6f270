"""Answers to QueryChangedDiskAreas: valid ones are used, invalid ones are refused.

The types are those of pyVmomi, as in a decoded answer.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim

from cbtfs.core.extent import Extent
from cbtfs.source.base import ChangeTrackingInvalid
from cbtfs.source.vsphere.cbt.changed_areas import _check_page, _extents

SIZE = 1 << 20
MAX = 1 << 62

Areas = Sequence[tuple[int, int]]


def page_of(start: int, length: int, areas: Areas) -> vim.VirtualMachine.DiskChangeInfo:
    change = vim.VirtualMachine.DiskChangeInfo.DiskChangeExtent
    return vim.VirtualMachine.DiskChangeInfo(
        startOffset=start,
        length=length,
        changedArea=[change(start=at, length=size) for at, size in areas],
    )


def accepted(page: vim.VirtualMachine.DiskChangeInfo, offset: int, size: int) -> list[Extent]:
    """Return the extents used from *page*, the answer for *offset* of a disk of *size*."""
    return list(_extents(page, offset, _check_page(page, offset, size)))


def is_right(offset: int, start: int, length: int, areas: Areas, size: int) -> bool:
    """Return whether *page* follows the rules of the API reference."""
    if start != offset or length <= 0 or start + length > size:
        return False
    ends = [start, *(at + count for at, count in areas)]
    return all(
        count > 0 and at >= before and at + count <= start + length
        for (at, count), before in zip(areas, ends, strict=False)
    )


@pytest.mark.parametrize(
    ("start", "length", "areas"),
    [
        (4096, SIZE - 4096, []),
        (4096, SIZE - 4096, [(4096, SIZE - 4096)]),
        (4096, 1, [(4096, 1)]),
        (4096, 8192, [(4096, 1), (4097, 1), (12287, 1)]),
    ],
)
def test_the_edges_of_a_page_belong_to_it(start: int, length: int, areas: Areas) -> None:
    assert accepted(page_of(start, length, areas), 4096, SIZE) == [Extent(*area) for area in areas]


@pytest.mark.parametrize(
    ("start", "length", "areas"),
    [
        (4095, 8192, []),
        (4097, 8192, []),
        (0, SIZE, [(4096, 1)]),
        (4096, 0, []),
        (4096, -1, []),
        (4096, SIZE - 4095, []),
        (4096, MAX, []),
        (4096, 8192, [(4095, 1)]),
        (4096, 8192, [(4095, 2)]),
        (4096, 8192, [(12287, 2)]),
        (4096, 8192, [(12288, 1)]),
        (4096, 8192, [(4096, 0)]),
        (4096, 8192, [(4096, -1)]),
        (4096, 8192, [(4096, MAX)]),
        (4096, 8192, [(5000, 10), (4096, 10)]),
        (4096, 8192, [(5000, 10), (5009, 10)]),
        (4096, 8192, [(5000, 10), (5000, 10)]),
        (4096, 8192, [(4096, 1), (5000, 0)]),
    ],
)
def test_an_answer_that_breaks_a_rule_is_refused(start: int, length: int, areas: Areas) -> None:
    with pytest.raises(ChangeTrackingInvalid):
        accepted(page_of(start, length, areas), 4096, SIZE)


NUMBERS = st.integers(-2, 12)
OFFSETS = st.integers(0, 12)  # those that a client asks for


@given(OFFSETS, NUMBERS, NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4))
def test_exactly_the_answers_that_keep_the_rules_are_taken(
    offset: int, start: int, length: int, areas: Areas
) -> None:
    page = page_of(start, length, areas)
    if is_right(offset, start, length, areas, 10):
        assert accepted(page, offset, 10) == [Extent(*area) for area in areas]
    else:
        with pytest.raises(ChangeTrackingInvalid):
            accepted(page, offset, 10)


@given(st.data())
def test_every_list_that_keeps_the_rules_is_taken_as_it_is(data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, 50))
    length = data.draw(st.integers(1, 100 - offset))
    bounds = sorted(data.draw(st.sets(st.integers(offset, offset + length), max_size=9)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    areas = [(start, end - start) for start, end in pairs]

    extents = accepted(page_of(offset, length, areas), offset, 100)

    assert extents == [Extent(*area) for area in areas]
