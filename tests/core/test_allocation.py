"""The record of areas that were never read: bounds, progress, and its form in a manifest."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.allocation import (
    Allocation,
    allocation_of,
    remaining,
    skipped_areas,
)
from cbtfs.core.extent import Extent, total, widen
from cbtfs.core.manifest import decode_manifest, encode_manifest
from cbtfs.core.proving import Proving, next_to_prove
from cbtfs.core.sealed import seal, unseal
from tests.core.test_manifest import WHOLE

MANIFEST = replace(
    WHOLE, disks=tuple(replace(disk, size=1 << 20, allocation=None) for disk in WHOLE.disks)
)
BLOCK = 4096
BLOCKS = 64
SIZE = BLOCK * BLOCKS - 100
MOST = 5

numbers = st.sets(st.integers(0, BLOCKS - 1))


def extents_of(blocks: set[int]) -> list[Extent]:
    """Return the extents of *blocks* within the disk, ascending."""
    return list(widen((Extent(n * BLOCK, 1) for n in blocks), BLOCK, SIZE))


def blocks_of(areas: tuple[Extent, ...] | list[Extent]) -> set[int]:
    return {n for e in areas for n in range(e.start // BLOCK, -(-e.end // BLOCK))}


@given(read=numbers)
def test_the_record_has_every_area_that_was_not_read(read: set[int]) -> None:
    exact = skipped_areas(extents_of(read), SIZE)
    few = skipped_areas(extents_of(read), SIZE, MOST)

    assert blocks_of(exact) == set(range(BLOCKS)) - read
    assert len(few) <= MOST
    assert blocks_of(few) >= blocks_of(exact)


@given(read=numbers, lists=st.lists(numbers, max_size=40), runs=st.integers(1, 12))
def test_with_a_share_of_one_nth_all_is_read_after_n_runs(
    read: set[int], lists: list[set[int]], runs: int
) -> None:
    areas = skipped_areas(extents_of(read), SIZE, MOST)
    skipped, proven = total(areas), set[int]()
    unread = blocks_of(areas)
    for number in range(runs):
        listed = lists[number] if number < len(lists) else set[int]()
        areas = remaining(areas, extents_of(listed), MOST)
        part = next_to_prove(areas, skipped, Fraction(1, runs), BLOCK)
        left = remaining(areas, part, MOST)
        proven |= listed | blocks_of(part)

        assert len(left) <= MOST
        assert blocks_of(left) <= blocks_of(areas)
        assert blocks_of(left) | proven >= unread
        areas = left

    assert areas == ()
    assert proven >= unread


def test_the_smallest_parts_stay_unproven_if_there_are_too_many() -> None:
    whole = (Extent(0, 100 * BLOCK),)
    read = [Extent(10 * BLOCK, BLOCK), Extent(20 * BLOCK, 5 * BLOCK), Extent(40 * BLOCK, 2 * BLOCK)]

    assert blocks_of(remaining(whole, read, 2)) == set(range(100)) - set(range(20, 25))


def test_a_huge_fragmented_disk_has_a_small_record() -> None:
    tib = 1 << 40
    read = [Extent(n * (64 << 20), 1 << 20) for n in range(tib // (64 << 20))]
    manifest = replace(
        MANIFEST,
        disks=tuple(
            replace(disk, size=tib, allocation=Allocation("star", 1, skipped_areas(read, tib)))
            for disk in MANIFEST.disks[:1]
        ),
    )

    assert len(encode_manifest(manifest)) - len(encode_manifest(MANIFEST)) < 20_000


RECORD = Allocation("star", 900, (Extent(0, 10), Extent(20, 5)), 3, 1, 77, "why")


@pytest.mark.parametrize("record", [RECORD, Allocation("none", 0)])
def test_a_manifest_keeps_the_record(record: Allocation) -> None:
    disk = replace(MANIFEST.disks[0], allocation=record)
    manifest = replace(MANIFEST, disks=(disk, *MANIFEST.disks[1:]))

    assert decode_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("unproven", [{"start": 5, "length": 10}, {"start": 14, "length": 1}], "overlap"),
        ("unproven", [{"start": 5, "length": 0}], "not an extent"),
        ("unproven", [{"start": 0, "length": 1 << 62}], "beyond the disk"),
        ("unproven", None, "unproven"),
        ("skipped", -1, "skipped"),
        ("method", 7, "method"),
    ],
)
def test_an_invalid_record_is_refused(member: str, value: Any, words: str) -> None:
    disk = replace(MANIFEST.disks[0], allocation=RECORD)
    document: Any = dict(unseal(encode_manifest(replace(MANIFEST, disks=(disk,)))))
    document["disks"][0]["allocation"][member] = value

    with pytest.raises(ValueError, match=words):
        decode_manifest(seal(document))


def test_a_disk_is_proven_by_its_share() -> None:
    assert Allocation("star", 50, (Extent(0, 25),)).proven_share(100) == 0.75
    assert Allocation("star", 0).proven_share(0) == 1.0
    assert allocation_of({**vars_of(RECORD), "unproven": []}).unproven_bytes == 0


def vars_of(record: Allocation) -> dict[str, Any]:
    return {
        name: getattr(record, name)
        for name in ("method", "skipped", "sampled", "mismatches", "read_bytes", "refused")
    }


@pytest.mark.parametrize("share", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_a_share_is_above_zero_and_at_most_one(share: Fraction) -> None:
    with pytest.raises(ValueError, match="share"):
        Proving(share)
