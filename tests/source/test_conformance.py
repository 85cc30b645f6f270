"""The conformance suite of sources, for all implementations, wrappers and fakes."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent, total
from cbtfs.core.ids import PointId
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource, Since
from tests.source.implementations import IMPLEMENTATIONS, SECTOR

SIZE = (150 << 10) + SECTOR
BASE = Since(PointId("12" * 16), None, SIZE, is_last_committed=True)


def sparse_content() -> bytes:
    """Return data at the start, across blocks in the middle and in the last byte, and holes."""
    data = bytearray(SIZE)
    noise = random.Random(1).randbytes(20_000)
    data[:9000] = noise[:9000]
    data[70_001:81_001] = noise[9000:]
    data[-1] = 7
    return bytes(data)


CONTENT = sparse_content()


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DiskSource]:
    with IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("source"), CONTENT) as opened:
        yield opened


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    start = draw(st.integers(0, SIZE - 1))
    return Extent(start, draw(st.integers(1, SIZE - start)))


def test_size_is_that_of_the_disk(source: DiskSource) -> None:
    assert source.size == SIZE


@given(extent=extents())
def test_a_read_is_exact_at_any_alignment(source: DiskSource, extent: Extent) -> None:
    data = source.read(extent)

    assert data == CONTENT[extent.start : extent.end]


@given(extent=extents(), cut=st.integers(1, 40_000))
def test_read_into_fills_memory_with_the_bytes_of_a_read(
    source: DiskSource, extent: Extent, cut: int
) -> None:
    memory = memoryview(bytearray(extent.length))
    parts = [memory[at : at + cut] for at in range(0, extent.length, cut)]

    source.read_into(extent, parts)

    assert memory == CONTENT[extent.start : extent.end]


def test_reads_from_several_threads_do_not_disturb_each_other(source: DiskSource) -> None:
    rnd = random.Random(2)
    wanted = [Extent(start, rnd.randint(1, SIZE - start)) for start in rnd.sample(range(SIZE), 400)]

    with ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(source.read, wanted))

    assert pieces == [CONTENT[extent.start : extent.end] for extent in wanted]


def test_unallocated_ranges_are_zeros(source: DiskSource) -> None:
    outside = bytearray(CONTENT)

    for extent in source.allocated():
        outside[extent.start : extent.end] = bytes(extent.length)

    assert not any(outside)


def test_allocated_extents_are_ascending_disjoint_and_within_the_disk(source: DiskSource) -> None:
    extents = source.allocated()

    assert all(a.end <= b.start for a, b in pairwise(extents))
    assert extents[-1].end <= SIZE
    assert 0 < total(extents) <= SIZE


@pytest.mark.parametrize("extent", [Extent(SIZE, 1), Extent(SIZE - 1, 2), Extent(0, SIZE + 1)])
def test_a_read_past_the_end_is_refused(source: DiskSource, extent: Extent) -> None:
    with pytest.raises(SourceUnavailable):
        source.read(extent)
    with pytest.raises(SourceUnavailable):
        source.read_into(extent, [memoryview(bytearray(extent.length))])


def test_changes_are_unknown_without_a_list_since_the_base(source: DiskSource) -> None:
    with pytest.raises(ChangeTrackingInvalid):
        source.changed(BASE)


def test_an_unchanged_disk_is_confirmed(source: DiskSource) -> None:
    source.read(Extent(0, SIZE))

    source.confirm()

    assert source.read(Extent(0, SIZE)) == CONTENT


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_disk_of_zeros_reads_as_zeros(name: str, tmp_path: Path) -> None:
    with IMPLEMENTATIONS[name](tmp_path, bytes(3 * SECTOR)) as empty:
        data = empty.read(Extent(0, 3 * SECTOR))

    assert data == bytes(3 * SECTOR)


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS.keys() - {"loop device"}))
def test_an_empty_disk_has_no_allocated_extents(name: str, tmp_path: Path) -> None:
    with IMPLEMENTATIONS[name](tmp_path, b"") as empty:
        assert empty.size == 0
        assert list(empty.allocated()) == []
