"""CheckedSource detects a source that violates the protocol; other wrappers delegate."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into
from cbtfs.source.wrappers import ChangingSource, CheckedSource, WrappedSource

SIZE = 1000
BASE = Since(PointId("12" * 16), None, SIZE, is_last_committed=True)
WHOLE = [Extent(0, SIZE)]


@dataclass
class InvalidSource:
    """Returns the configured extents and read lengths, valid or not."""

    size: int = SIZE
    extents: Sequence[Extent] = field(default_factory=list)
    surplus: int = 0
    is_local: bool = False

    def changed(self, since: Since) -> Sequence[Extent]:
        return self.extents

    def allocated(self) -> Sequence[Extent]:
        return self.extents

    def read(self, extent: Extent) -> bytes:
        return bytes(extent.length + self.surplus)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("surplus", [-10, -1, 1])
def test_a_read_of_another_length_is_refused(surplus: int) -> None:
    with pytest.raises(SourceUnavailable, match="of 10 bytes at 5"):
        CheckedSource(InvalidSource(surplus=surplus)).read(Extent(5, 10))


@pytest.mark.parametrize("surplus", [-10, -1, 1])
@pytest.mark.parametrize("wrapper", [CheckedSource, ChangingSource, WrappedSource])
def test_memory_is_not_filled_with_a_read_of_another_length(
    surplus: int, wrapper: type[WrappedSource]
) -> None:
    with pytest.raises(SourceUnavailable, match="of 10 bytes"):
        wrapper(InvalidSource(surplus=surplus)).read_into(
            Extent(5, 10), [memoryview(bytearray(10))]
        )


class Negative(WrappedSource):
    """Inverts the bytes; it overrides only read()."""

    def read(self, extent: Extent) -> bytes:
        return bytes(byte ^ 0xFF for byte in self._source.read(extent))


@pytest.mark.parametrize("is_local", [False, True])
def test_a_wrapper_that_overrides_only_read_changes_every_read(is_local: bool) -> None:
    memory = memoryview(bytearray(10))
    source = CheckedSource(Negative(InvalidSource(is_local=is_local)))

    source.read_into(Extent(5, 10), [memory[:3], memory[3:]])

    assert source.is_local is is_local
    assert memory == source.read(Extent(5, 10)) == b"\xff" * 10


@pytest.mark.parametrize("extent", [Extent(999, 2), Extent(1000, 1), Extent(5000, 1)])
def test_changes_beyond_the_end_are_refused(extent: Extent) -> None:
    with pytest.raises(ChangeTrackingInvalid, match=f"ends at {extent.end}"):
        CheckedSource(InvalidSource(extents=[extent])).changed(BASE)


def test_changes_in_any_order_within_the_disk_are_accepted() -> None:
    extents = [Extent(500, 500), Extent(0, 10), Extent(5, 600)]

    assert CheckedSource(InvalidSource(extents=extents)).changed(BASE) == extents


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(10, 10), Extent(0, 5)],
        [Extent(0, 10), Extent(9, 5)],
        [Extent(0, 10), Extent(990, 11)],
    ],
    ids=["descending", "overlapping", "beyond the end"],
)
def test_an_invalid_allocation_counts_as_the_whole_disk(extents: list[Extent]) -> None:
    assert CheckedSource(InvalidSource(extents=extents)).allocated() == WHOLE


def test_a_valid_allocation_is_returned_unchanged() -> None:
    extents = [Extent(0, 10), Extent(10, 5), Extent(990, 10)]

    assert CheckedSource(InvalidSource(extents=extents)).allocated() == extents


def test_an_empty_disk_has_no_allocated_extents() -> None:
    assert list(CheckedSource(InvalidSource(size=0, extents=[Extent(0, 5)])).allocated()) == []


def test_the_size_is_constant_even_if_the_source_changes_its_size() -> None:
    changing = InvalidSource()
    source = CheckedSource(changing)

    changing.size = 2 * SIZE

    assert source.size == SIZE
