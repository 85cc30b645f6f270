"""A source that breaks its protocol is found out before it does harm."""

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
class Liar:
    """Says whatever it is told to."""

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
        """Says that all is well."""

    def close(self) -> None:
        """Holds nothing."""


@pytest.mark.parametrize("surplus", [-10, -1, 1])
def test_a_read_of_another_length_is_refused(surplus: int) -> None:
    with pytest.raises(SourceUnavailable, match="of 10 bytes at 5"):
        CheckedSource(Liar(surplus=surplus)).read(Extent(5, 10))


@pytest.mark.parametrize("surplus", [-10, -1, 1])
@pytest.mark.parametrize("wrapper", [CheckedSource, ChangingSource, WrappedSource])
def test_memory_is_not_filled_with_a_read_of_another_length(
    surplus: int, wrapper: type[WrappedSource]
) -> None:
    with pytest.raises(SourceUnavailable, match="10 bytes wanted"):
        wrapper(Liar(surplus=surplus)).read_into(Extent(5, 10), [memoryview(bytearray(10))])


class Negative(WrappedSource):
    """Overrides read() alone."""

    def read(self, extent: Extent) -> bytes:
        return bytes(byte ^ 0xFF for byte in self._source.read(extent))


@pytest.mark.parametrize("is_local", [False, True])
def test_a_wrapper_that_overrides_read_alone_changes_every_read(is_local: bool) -> None:
    memory = memoryview(bytearray(10))
    source = CheckedSource(Negative(Liar(is_local=is_local)))

    source.read_into(Extent(5, 10), [memory[:3], memory[3:]])

    assert source.is_local is is_local
    assert memory == source.read(Extent(5, 10)) == b"\xff" * 10


@pytest.mark.parametrize("extent", [Extent(999, 2), Extent(1000, 1), Extent(5000, 1)])
def test_changes_beyond_the_end_are_not_believed(extent: Extent) -> None:
    with pytest.raises(ChangeTrackingInvalid, match=f"reaches to {extent.end}"):
        CheckedSource(Liar(extents=[extent])).changed(BASE)


def test_changes_in_any_order_within_the_disk_are_believed() -> None:
    extents = [Extent(500, 500), Extent(0, 10), Extent(5, 600)]

    assert CheckedSource(Liar(extents=extents)).changed(BASE) == extents


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(10, 10), Extent(0, 5)],
        [Extent(0, 10), Extent(9, 5)],
        [Extent(0, 10), Extent(990, 11)],
    ],
    ids=["descending", "overlapping", "beyond the end"],
)
def test_an_allocation_that_makes_no_sense_is_the_whole_disk(extents: list[Extent]) -> None:
    assert CheckedSource(Liar(extents=extents)).allocated() == WHOLE


def test_an_allocation_that_makes_sense_is_taken_as_it_is() -> None:
    extents = [Extent(0, 10), Extent(10, 5), Extent(990, 10)]

    assert CheckedSource(Liar(extents=extents)).allocated() == extents


def test_an_allocation_of_a_disk_of_no_bytes_is_nothing() -> None:
    assert list(CheckedSource(Liar(size=0, extents=[Extent(0, 5)])).allocated()) == []


def test_a_size_that_changes_is_the_first_one_that_was_told() -> None:
    liar = Liar()
    source = CheckedSource(liar)

    liar.size = 2 * SIZE

    assert source.size == SIZE
