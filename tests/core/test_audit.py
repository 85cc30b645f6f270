"""The blocks of an audit's sample, and its probability of detection."""

from fractions import Fraction
from math import comb
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.audit import (
    LEAST_BLOCKS,
    MOST_BLOCKS,
    AuditedDisk,
    Sample,
    Sampling,
    choose,
    detection,
)
from cbtfs.core.blockmap import Shape
from cbtfs.core.extent import Extent, coalesce

BLOCK: Final = 65536
GIB: Final = 1 << 30
SHARE: Final = Sampling(0.001)

SIZES = st.integers(0, 2000 * BLOCK) | st.integers(0, 1 << 46)
SAMPLINGS = st.builds(
    Sampling,
    st.floats(1e-6, 1.0),
    st.integers(1, 100),
    st.integers(100, 500),
)


@st.composite
def lists(draw: st.DrawFn, size: int) -> list[Extent]:
    """Generate whole blocks of a disk, ascending, as an ingest reads them."""
    blocks = Shape(size, BLOCK).blocks
    if not blocks:
        return []
    places = st.integers(0, min(blocks, 3000) - 1) | st.integers(0, blocks - 1)
    drawn = draw(st.lists(st.tuples(places, st.integers(1, 50)), max_size=6))
    ends = [(first, min(first + count, blocks)) for first, count in drawn]
    extents = [Extent(a * BLOCK, min(b * BLOCK, size) - a * BLOCK) for a, b in ends]
    return list(coalesce(extents))


def sample_of(
    size: int,
    listed: list[Extent] | None = None,
    *,
    base_size: int | None = None,
    superblocks: tuple[int, ...] = (),
    sampling: Sampling = SHARE,
    seed: str = "seed",
) -> Sample:
    places = [Extent(place, 1) for place in superblocks]
    before = size if base_size is None else base_size
    disk = AuditedDisk(Shape(size, BLOCK), listed or [], places, before)
    return choose(disk, sampling, seed)


@given(st.data(), SIZES, SIZES, SAMPLINGS)
def test_a_sample_has_as_many_unlisted_blocks_of_the_disk_as_asked(
    data: st.DataObject, size: int, base_size: int, sampling: Sampling
) -> None:
    listed = data.draw(lists(size))
    places = data.draw(st.lists(st.integers(0, size), max_size=5)) if size else []
    blocks = Shape(size, BLOCK).blocks
    read = {n for e in listed for n in range(e.start // BLOCK, -(-e.end // BLOCK))}

    sample = sample_of(
        size, listed, base_size=base_size, superblocks=tuple(places), sampling=sampling
    )

    assert sample.unchanged == blocks - len(read)
    assert len(sample.blocks) == sampling.blocks(sample.unchanged)
    assert list(sample.blocks) == sorted(set(sample.blocks))
    assert all(0 <= block < blocks for block in sample.blocks)
    assert not read & set(sample.blocks)
    assert sample.weighted <= len(sample.blocks) // 2


@given(SAMPLINGS, st.integers(0, 1 << 40))
def test_the_work_is_bounded_on_both_sides(sampling: Sampling, unchanged: int) -> None:
    count = sampling.blocks(unchanged)

    assert min(unchanged, sampling.least) <= count <= max(sampling.most, sampling.least)
    assert count <= unchanged
    if sampling.least < count < min(unchanged, sampling.most):
        assert count - 1 < sampling.share * unchanged <= count


@pytest.mark.parametrize(
    ("disk", "blocks"),
    [(GIB, LEAST_BLOCKS), (100 * GIB, 1639), (1000 * GIB, MOST_BLOCKS), (1 << 50, MOST_BLOCKS)],
)
def test_the_default_share(disk: int, blocks: int) -> None:
    assert SHARE.blocks(disk // BLOCK) == blocks


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_an_invalid_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="invalid sampling"):
        Sampling(share)


def test_a_seed_determines_the_sample() -> None:
    size = 100 * GIB

    assert sample_of(size, seed="a") == sample_of(size, seed="a")
    assert sample_of(size, seed="a").blocks != sample_of(size, seed="b").blocks


def test_superblocks_are_in_the_sample() -> None:
    places = (0, GIB, 5 * GIB + 1024, 100 * GIB - 1)

    sample = sample_of(100 * GIB, superblocks=places)

    assert {place // BLOCK for place in places} <= set(sample.blocks)


def test_the_borders_of_doublings_are_in_the_sample() -> None:
    sample = sample_of(1000 * GIB)

    for border in (128 * GIB, 256 * GIB, 512 * GIB):
        first = border // BLOCK
        assert set(range(first - 4, first + 4)) <= set(sample.blocks)


def test_no_border_is_looked_at_on_a_small_disk() -> None:
    assert sample_of(100 * GIB).weighted == 0


def test_neighbours_of_changed_blocks_are_in_the_sample() -> None:
    listed = [Extent(1000 * BLOCK, 7 * BLOCK), Extent(90_000 * BLOCK, BLOCK)]

    sample = sample_of(100 * GIB, listed)

    assert {999, 1007, 89_999, 90_001} <= set(sample.blocks)


def test_the_grown_tail_is_in_the_sample_more_than_the_rest() -> None:
    size, before = 110 * GIB, 100 * GIB
    first = before // BLOCK

    sample = sample_of(size, base_size=before)

    tail = [block for block in sample.blocks if block >= first - 2]
    assert len(tail) > len(sample.blocks) * 4 // 10


def test_a_sample_of_a_huge_disk_takes_no_walk_over_it() -> None:
    listed = [Extent(number * GIB, BLOCK) for number in range(0, 1 << 20, 1 << 13)]

    sample = sample_of(1 << 50, listed)

    assert len(sample.blocks) == MOST_BLOCKS


def test_all_of_the_rest_is_as_likely() -> None:
    counts = [0] * 40
    sampling = Sampling(0.1, 4, 4)
    for seed in range(2000):
        for block in sample_of(40 * BLOCK, sampling=sampling, seed=str(seed)).blocks:
            counts[block] += 1

    expected = 2000 * 4 / 40
    spread = (2000 * 0.1 * 0.9) ** 0.5
    assert all(abs(count - expected) < 5 * spread for count in counts)


@given(st.integers(0, 60), st.data())
def test_the_formula_is_the_hypergeometric_one(unchanged: int, data: st.DataObject) -> None:
    missed = data.draw(st.integers(0, unchanged))
    sampled = data.draw(st.integers(0, unchanged))

    exact = 1 - Fraction(comb(unchanged - missed, sampled), comb(unchanged, sampled))

    assert detection(unchanged, missed, sampled) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(
    ("unchanged", "missed", "sampled"), [(10, 11, 1), (10, 1, 11), (10, -1, 1), (10, 1, -1)]
)
def test_a_sample_larger_than_the_disk_has_no_probability(
    unchanged: int, missed: int, sampled: int
) -> None:
    with pytest.raises(ValueError, match="blocks"):
        detection(unchanged, missed, sampled)


def test_the_largest_sample_has_the_documented_probability() -> None:
    blocks = 1 << 30

    assert detection(blocks, blocks // 2000, MOST_BLOCKS) > 0.9997
