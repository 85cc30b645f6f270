"""An ingest stores each block once, and never stores zeros."""

import random
from pathlib import Path

import pytest

from tests.ingest.fake_disks import Untracked, data_blocks, disk_of, ingest, packs, with_list
from tests.make_points import BLOCK, new_repository, read_point
from tests.source.fake import FakeDisk

NOISE = random.Random(5).randbytes(100 * BLOCK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def test_a_full_of_an_unchanged_disk_writes_no_object(path: Path) -> None:
    disk = disk_of(NOISE)
    ingest(path, {"A": disk.take_snapshot()})
    before = packs(path)

    second = ingest(path, {"A": disk.take_snapshot()}, want="full")

    assert packs(path) == before
    assert second.disks[0].counts.stored_bytes == 0
    assert second.disks[0].counts.written_blocks == 0
    assert second.disks[0].counts.read_bytes == len(NOISE)


def test_an_incremental_without_changes_reads_and_writes_nothing(path: Path) -> None:
    disk = disk_of(NOISE)
    first = ingest(path, {"A": disk.take_snapshot()})
    before = packs(path)

    second = ingest(path, {"A": with_list(disk.take_snapshot(), [])})

    assert packs(path) == before
    assert second.disks[0].counts.read_bytes == 0
    assert second.disks[0].root == first.disks[0].root


def test_disks_and_vms_share_equal_blocks(path: Path) -> None:
    ingest(path, {"A": disk_of(NOISE).take_snapshot()})
    before = packs(path)

    again = ingest(path, {"A": disk_of(NOISE).take_snapshot()}, vm="other")
    both = ingest(path, {label: disk_of(NOISE).take_snapshot() for label in "BC"}, vm="third")

    assert packs(path) == before
    assert [d.counts.new_bytes for d in (*again.disks, *both.disks)] == [0, 0, 0]


def test_two_new_disks_of_one_point_share_equal_blocks(path: Path) -> None:
    manifest = ingest(path, {label: disk_of(NOISE).take_snapshot() for label in "AB"})

    assert [disk.counts.new_bytes for disk in manifest.disks] == [len(NOISE), 0]
    assert read_point(path, manifest) == {"A": NOISE, "B": NOISE}


def test_a_block_that_returns_is_not_stored_again(path: Path) -> None:
    disk = disk_of(NOISE)
    ingest(path, {"A": disk.take_snapshot()})
    disk.write(0, b"other")
    ingest(path, {"A": disk.take_snapshot()})
    disk.write(0, NOISE[:5])

    third = ingest(path, {"A": disk.take_snapshot()})

    assert third.disks[0].counts.written_blocks == 1
    assert third.disks[0].counts.stored_bytes == 0


def test_a_block_repeated_on_a_disk_is_stored_once(path: Path) -> None:
    manifest = ingest(path, {"A": disk_of(NOISE[:BLOCK] * 200).take_snapshot()})

    assert manifest.disks[0].counts.written_blocks == 200
    assert manifest.disks[0].counts.new_bytes == BLOCK


def test_blocks_of_a_run_without_a_manifest_are_reused(path: Path) -> None:
    first = ingest(path, {"A": disk_of(NOISE).take_snapshot()})
    (path / "points" / first.point).unlink()
    before = packs(path)

    second = ingest(path, {"A": disk_of(NOISE).take_snapshot()})

    assert packs(path) == before
    assert second.disks[0].counts.new_bytes == 0
    assert read_point(path, second) == {"A": NOISE}


def test_zeros_are_never_stored(path: Path) -> None:
    disk = FakeDisk(1000 * BLOCK + 5)

    manifest = ingest(path, {"A": Untracked(disk.take_snapshot())})

    assert packs(path) == {}
    assert manifest.disks[0].data_blocks == 0


def test_trimmed_blocks_are_zeros_and_count_as_such(path: Path) -> None:
    disk = disk_of(NOISE)
    ingest(path, {"A": disk.take_snapshot()})
    disk.trim(3 * BLOCK, 70 * BLOCK)

    second = ingest(path, {"A": disk.take_snapshot()})

    assert second.disks[0].counts.zero_blocks == 70
    assert second.disks[0].data_blocks == 30
    assert read_point(path, second) == {"A": bytes(disk.content)}


def test_equal_disks_have_equal_roots_whatever_their_history(path: Path) -> None:
    grown = disk_of(NOISE[:50_000])
    ingest(path, {"A": grown.take_snapshot()})
    grown.resize(len(NOISE))
    grown.write(50_000, NOISE[50_000:])
    incremental = ingest(path, {"A": grown.take_snapshot()})

    full = ingest(path, {"A": disk_of(NOISE).take_snapshot()}, vm="other")

    assert incremental.kind == "incremental"
    assert incremental.disks[0].root == full.disks[0].root
    assert incremental.disks[0].data_blocks == full.disks[0].data_blocks == data_blocks(NOISE)
