"""Any difference from the base is a mismatch, also between data and zeros."""

from pathlib import Path

import pytest

from cbtfs.ingest.plan import Want
from tests.ingest.audit.silent_tracker import ALL, a_disk, suspects, take_silent
from tests.make_points import BLOCK, new_repository, read_point

LAST = 700
"""Bytes of the last block: it is stored padded."""
DATA = b"\1" * BLOCK
ZEROS = bytes(BLOCK)


@pytest.mark.parametrize("place", [3, 70, 75])
@pytest.mark.parametrize(
    ("before", "after"),
    [(ZEROS, DATA), (DATA, ZEROS), (DATA, b"\2" * BLOCK), (DATA, DATA[:-1] + b"\2")],
    ids=["data-where-zeros-were", "zeros-where-data-was", "other-data", "another-last-byte"],
)
@pytest.mark.parametrize("want", ["auto", "full"])
def test_a_hidden_change_of_any_kind_is_found(
    tmp_path: Path, place: int, before: bytes, after: bytes, want: Want
) -> None:
    path = new_repository(tmp_path / "repository")
    disk = a_disk(75)
    disk.resize(75 * BLOCK + LAST)
    size = LAST if place == 75 else BLOCK
    disk.write(place * BLOCK, before[-size:])
    take_silent(path, disk)
    disk.write(place * BLOCK, after[-size:])

    second = take_silent(path, disk, {place}, audit=ALL, want=want)

    record = second.disks[0]
    assert record.audit is not None
    assert (record.audit["missed"], record.audit["mismatches"]) == (1, 1)
    assert record.ingest == "full"
    assert read_point(path, second) == {"A": bytes(disk.content)}


@pytest.mark.parametrize("content", [ZEROS, DATA])
@pytest.mark.parametrize("want", ["auto", "full"])
def test_a_write_of_the_same_bytes_is_no_miss(tmp_path: Path, content: bytes, want: Want) -> None:
    path = new_repository(tmp_path / "repository")
    disk = a_disk(10)
    disk.resize(10 * BLOCK + LAST)
    for place in (4, 10):
        disk.write(place * BLOCK, content)
    take_silent(path, disk)
    for place in (4, 10):
        disk.write(place * BLOCK, content)

    point = take_silent(path, disk, {4, 10}, want=want)

    assert point.disks[0].audit is not None
    assert point.disks[0].audit["mismatches"] == 0
    assert suspects(path) == set()
