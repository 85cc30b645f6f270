"""The writers of blocks and bytes, against a comparison of every version with the one before."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.blame import WrittenBlocks, written_blocks, written_extents
from cbtfs.core.blockmap import FANOUT, Tree, diff
from cbtfs.core.extent import Extent
from tests.core.test_blockmap import HISTORIES, Nodes, Step, play


def expected(trees: Sequence[Tree[int]], first: int, end: int) -> dict[int, int]:
    """Return the writer of each block of [first, end) that a later version than 0 wrote."""
    writers = {}
    for number, (older, newer) in enumerate(pairwise(trees), 1):
        for block in diff(older, newer):
            if first <= block < end:
                writers[block] = number
    return writers


def listed(runs: Sequence[WrittenBlocks], first: int, end: int) -> dict[int, int]:
    """Check that *runs* cover [first, end) and are as long as possible; return the writers."""
    at, writers, before = first, {}, -1
    for run in runs:
        assert (run.first, run.blocks > 0, run.version != before) == (at, True, True)
        at, before = run.first + run.blocks, run.version
        if run.version:
            writers.update(dict.fromkeys(range(run.first, at), run.version))
    assert at == max(first, end)
    return writers


@given(HISTORIES, st.data())
def test_writers_are_those_of_the_differences_of_neighbours(
    history: list[Step], data: st.DataObject
) -> None:
    trees = [tree for tree, _ in play(Nodes(), history)]
    end = data.draw(st.integers(0, trees[-1].blocks))
    first = data.draw(st.integers(0, end))

    for area in ((0, trees[-1].blocks), (first, end)):
        runs = list(written_blocks(trees, *area))
        assert listed(runs, *area) == expected(trees, *area)


def test_equal_versions_are_walked_once() -> None:
    nodes = Nodes()
    blocks = FANOUT**2
    tree = nodes.build(blocks, None, dict.fromkeys(range(blocks), 1))
    changed = nodes.build(blocks, tree, {5: 2})
    nodes.loaded = 0

    runs = list(written_blocks([tree] * 100 + [changed] * 100, 0, blocks))

    assert runs == [
        WrittenBlocks(0, 5, 0),
        WrittenBlocks(5, 1, 100),
        WrittenBlocks(6, blocks - 6, 0),
    ]
    assert nodes.loaded == 4, "two roots and two leaves"


def test_a_leaf_is_loaded_only_until_its_last_block_is_resolved() -> None:
    nodes = Nodes()
    versions = [nodes.build(FANOUT, None, dict.fromkeys(range(FANOUT), n)) for n in range(1, 100)]
    nodes.loaded = 0

    assert list(written_blocks(versions, 0, FANOUT)) == [WrittenBlocks(0, FANOUT, 98)]
    assert nodes.loaded == 2


BLOCK = 4


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=5),
    st.data(),
)
def test_the_ends_of_resized_versions_belong_to_them(
    images: list[list[int]], data: st.DataObject
) -> None:
    """Blocks of four values: only the bytes beyond the end of the shorter version differ."""
    nodes = Nodes()
    trees = []
    for image in images:
        padded = [*image, *[0] * (-len(image) % BLOCK)]
        contents = [tuple(padded[at : at + BLOCK]) for at in range(0, len(padded), BLOCK)]
        writes = {n: hash(c) or None if any(c) else None for n, c in enumerate(contents)}
        trees.append(nodes.build(len(contents), None, writes))
    size = len(images[-1])
    if not size:
        return
    end = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, end - 1))

    blocks = written_blocks(trees, start // BLOCK, -(-end // BLOCK))
    found = list(
        written_extents(blocks, [len(i) for i in images], BLOCK, Extent(start, end - start))
    )

    writers = [version for extent, version in found for _ in range(extent.length)]
    assert [extent.start for extent, _ in found] == [
        start + sum(e.length for e, _ in found[:n]) for n in range(len(found))
    ]
    assert all(a.version != b.version for a, b in pairwise(found))
    assert writers == [_writer(images, trees, byte) for byte in range(start, end)]


def _writer(images: list[list[int]], trees: Sequence[Tree[int]], byte: int) -> int:
    writer = 0
    for number, (before, after) in enumerate(pairwise(images), 1):
        is_resized = (byte < len(before)) != (byte < len(after))
        if is_resized or byte // BLOCK in diff(trees[number - 1], trees[number]):
            writer = number
    return writer
