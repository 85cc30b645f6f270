"""Batches of units that one thread reads."""

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.ingest.capture import UNIT_BYTES, _batches, _Unit

LENGTHS = st.lists(
    st.sampled_from([4096, 65536, UNIT_BYTES // 2, UNIT_BYTES - 4096, UNIT_BYTES]), max_size=30
)


@given(LENGTHS)
def test_batches_keep_the_order_and_are_as_large_as_may_be(lengths: list[int]) -> None:
    units = [_Unit(n, [Extent(0, length)], length, 1) for n, length in enumerate(lengths)]

    batches = list(_batches(iter(units)))

    assert [unit for batch in batches for unit in batch] == units
    sizes = [sum(unit.length for unit in batch) for batch in batches]
    assert all(0 < size <= UNIT_BYTES for size in sizes)
    for size, following in zip(sizes, batches[1:], strict=False):
        assert size + following[0].length > UNIT_BYTES
