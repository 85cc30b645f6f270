"""Disks that grow and shrink across every height of the block map."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.ingest.fake_disks import data_blocks, disk_of, ingest, lose_catalog, with_list
from tests.make_points import BLOCK, new_repository, read_point
from tests.source.fake import FakeDisk

LEAF = 64 * BLOCK
NODE = 64 * LEAF
"""16 MiB: one byte more makes the block map three levels deep."""

SIZES = [0, 1, BLOCK, BLOCK + 1, LEAF, LEAF + 1, 3 * LEAF + 5, NODE, NODE + 1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def speckled(size: int) -> FakeDisk:
    """Return a disk with data at both ends and at random offsets."""
    disk, rnd = FakeDisk(size), random.Random(size)
    for at in (0, *(rnd.randrange(size or 1) for _ in range(8)), max(size - 3, 0)):
        disk.write(at, rnd.randbytes(500))
    return disk


def take_listed(path: Path, disk: FakeDisk, extents: list[tuple[int, int]]) -> Manifest:
    return ingest(path, {"A": with_list(disk.take_snapshot(), extents)})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_a_resized_disk_is_correct_with_an_empty_list(path: Path, before: int, size: int) -> None:
    disk = speckled(before)
    first = ingest(path, {"A": disk.take_snapshot()})
    was = bytes(disk.content)
    disk.resize(size)

    second = take_listed(path, disk, [])

    assert second.kind == "incremental"
    assert second.disks[0].data_blocks == data_blocks(bytes(disk.content))
    assert read_point(path, second) == {"A": bytes(disk.content)}
    assert read_point(path, first) == {"A": was}


@pytest.mark.parametrize(("before", "size"), list(pairwise(SIZES)))
def test_writes_beyond_the_old_end_need_not_be_listed(path: Path, before: int, size: int) -> None:
    disk = speckled(before)
    ingest(path, {"A": disk.take_snapshot()})
    disk.resize(size)
    disk.write(before, b"just beyond the old end")
    disk.write(size - 1, b"z")

    second = take_listed(path, disk, [])

    assert read_point(path, second) == {"A": bytes(disk.content)}


def test_truncated_content_does_not_reappear(path: Path) -> None:
    disk = disk_of(b"x" * (NODE + LEAF))
    history = []
    for size in (NODE + LEAF, LEAF + 1, NODE + LEAF, 1, 0, NODE + LEAF, BLOCK + 3, LEAF):
        disk.resize(size)
        history.append((take_listed(path, disk, []), bytes(disk.content)))
    lose_catalog(path)

    contents = [read_point(path, manifest) for manifest, _ in history]

    assert contents == [{"A": content} for _, content in history]
    assert [m.kind for m, _ in history] == ["full"] + ["incremental"] * 7


def test_growth_reads_only_the_added_space(path: Path) -> None:
    disk = disk_of(b"x" * LEAF)
    ingest(path, {"A": disk.take_snapshot()})
    disk.resize(NODE + 1)
    disk.write(NODE, b"y")

    second = take_listed(path, disk, [])

    around_old_end, around_new_end = 2 * BLOCK, BLOCK + 1
    assert second.disks[0].counts.read_bytes == around_old_end + around_new_end


def test_equal_disks_have_equal_roots_at_every_size(path: Path) -> None:
    grown = FakeDisk()
    for size in SIZES:
        grown.resize(size)
        grown.write(size // 2, b"in the middle")
        manifest = ingest(path, {"A": grown.take_snapshot()})

        afresh = ingest(path, {"A": disk_of(bytes(grown.content)).take_snapshot()}, vm=f"vm{size}")

        assert manifest.disks[0].root == afresh.disks[0].root


@pytest.mark.parametrize(("size", "before"), [*pairwise(SIZES), (5, BLOCK), (BLOCK + 5, LEAF)])
def test_a_truncated_disk_has_the_root_of_a_disk_that_never_was_longer(
    path: Path, size: int, before: int
) -> None:
    """The block at the new end is stored without the removed bytes."""
    disk = disk_of(b"x" * before)
    ingest(path, {"A": disk.take_snapshot()})
    disk.resize(size)

    cut = take_listed(path, disk, [])
    afresh = ingest(path, {"A": disk_of(b"x" * size).take_snapshot()}, vm="other")

    assert cut.kind == "incremental"
    assert cut.disks[0].root == afresh.disks[0].root
