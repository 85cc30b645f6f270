"""Discards that are in no change list: unallocated parts of a disk are zeros in the point."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.manifest import Manifest
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.base import DiskSource
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import data_blocks, disk_of, ingest, with_list
from tests.make_points import BLOCK, EPOCH, new_repository, read_point
from tests.source.fake import FakeSnapshot


class Mapped(FakeSnapshot):
    """A snapshot that reports its allocated extents to the byte."""

    holes: tuple[Extent, ...] = ()

    def allocated(self) -> list[Extent]:
        extents, at = [], 0
        for hole in sorted(self.holes, key=lambda extent: extent.start):
            if hole.start > at:
                extents.append(Extent(at, hole.start - at))
            at = max(at, hole.end)
        if at < self.size:
            extents.append(Extent(at, self.size - at))
        return extents


def take(path: Path, source: DiskSource, *, lists_discards: bool) -> Manifest:
    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            given = DiskInput("A", source, "A", lists_discards=lists_discards)
            return ingest_point(repository, objects, VmInput("vm"), [given], PointOptions(EPOCH))
        finally:
            objects.close()


def discarded(path: Path, size: int, hole: Extent, *, lists_discards: bool) -> Manifest:
    """Return the second point of a full disk, with *hole* discarded and an empty change list."""
    disk = disk_of(b"x" * size)
    ingest(path, {"A": disk.take_snapshot()})
    disk.trim(hole.start, hole.length)
    shot = Mapped(disk, 1)
    shot.holes = (hole,)
    return take(path, with_list(shot, []), lists_discards=lists_discards)


SIZES = [1, 512, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 512, 70 * BLOCK + 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_discarded_last_block_is_zeros(tmp_path: Path, size: int) -> None:
    path = new_repository(tmp_path / "repository")
    start = (size - 1) // BLOCK * BLOCK
    point = discarded(path, size, Extent(start, size - start), lists_discards=False)

    expected = b"x" * start + bytes(size - start)
    assert point.kind == "incremental"
    assert read_point(path, point) == {"A": expected}
    assert point.disks[0].data_blocks == data_blocks(expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_discarded_disk_is_zeros(tmp_path: Path, size: int) -> None:
    path = new_repository(tmp_path / "repository")
    point = discarded(path, size, Extent(0, size), lists_discards=False)

    assert read_point(path, point) == {"A": bytes(size)}
    assert point.disks[0].data_blocks == 0


def test_a_source_that_lists_discards_is_not_asked_for_them(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    point = discarded(path, 5 * BLOCK, Extent(0, 5 * BLOCK), lists_discards=True)

    assert read_point(path, point) == {"A": b"x" * 5 * BLOCK}


@settings(max_examples=30)
@given(st.integers(1, 9 * BLOCK), st.data())
def test_any_hole_is_zeros(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    path = new_repository(tmp_path_factory.mktemp("discards") / "repository")
    start = data.draw(st.integers(0, size - 1))
    hole = Extent(start, data.draw(st.integers(1, size - start)))
    point = discarded(path, size, hole, lists_discards=False)

    expected = bytearray(b"x" * size)
    expected[hole.start : hole.end] = bytes(hole.length)
    assert read_point(path, point) == {"A": bytes(expected)}
