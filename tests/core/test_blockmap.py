"""The block map against a dictionary of blocks, with nodes in memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT, Builder, Shape, Tree, diff, height_of

Blocks = dict[int, int]
"""Content of each block with data: any number except 0."""

EDGES = [0, 1, 2, 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 262145, 300000]


@dataclass
class Nodes:
    """Nodes in memory: equal nodes get equal numbers, like equal digests."""

    numbers: dict[tuple[int, tuple[int | None, ...]], int] = field(default_factory=dict)
    children: dict[int, tuple[int, list[int | None]]] = field(default_factory=dict)
    made: int = 0
    loaded: int = 0

    def make(self, level: int, children: Sequence[int | None]) -> int:
        assert len(children) == FANOUT
        assert any(child is not None for child in children), "a node of nothing is never stored"
        self.made += 1
        key = (level, tuple(children))
        number = self.numbers.setdefault(key, 1_000_000_000 + len(self.numbers))
        self.children[number] = (level, list(children))
        return number

    def load(self, ref: int, level: int) -> list[int | None]:
        self.loaded += 1
        stored_level, children = self.children[ref]
        assert stored_level == level
        return children

    def tree(self, root: int | None, blocks: int) -> Tree[int]:
        return Tree(root, blocks, self.load)

    def build(
        self, blocks: int, base: Tree[int] | None, writes: Mapping[int, int | None]
    ) -> Tree[int]:
        """Return *base* resized to *blocks*, with *writes* applied; None zeroes a block."""
        builder = Builder(Shape(blocks, 1), base, self.make)
        leaves: dict[int, dict[int, int | None]] = {}
        for block, value in writes.items():
            leaves.setdefault(block // FANOUT, {})[block % FANOUT] = value
        for index in sorted(leaves):
            children = builder.leaf(index)
            for slot, value in leaves[index].items():
                children[slot] = value
            builder.put_leaf(index, children)
        return self.tree(builder.finish(), blocks)


def content(nodes: Nodes, tree: Tree[int]) -> Blocks:
    """Return the content of each block with data in a tree."""
    blocks = {}
    for index, leaf in tree.leaves():
        for slot, child in enumerate(nodes.load(leaf, 1)):
            if child is not None:
                blocks[index * FANOUT + slot] = child
    return blocks


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if merged and sum(merged[-1]) == block:
            merged[-1] = (merged[-1][0], merged[-1][1] + 1)
        else:
            merged.append((block, 1))
    return merged


class Step(NamedTuple):
    blocks: int
    writes: dict[int, int | None]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    size = draw(st.sampled_from(EDGES))
    near = st.sampled_from(EDGES).flatmap(lambda edge: st.integers(edge - 3, edge + 3))
    places = st.one_of(near, st.integers(0, 200), st.integers(0, 300000))
    values = st.one_of(st.none(), st.integers(1, 3))
    writes = draw(st.dictionaries(places, values, max_size=6))
    return Step(size, {at: value for at, value in writes.items() if 0 <= at < size})


HISTORIES = st.lists(steps(), min_size=1, max_size=6)


def play(nodes: Nodes, history: Iterable[Step]) -> list[tuple[Tree[int], Blocks]]:
    """Yield the tree after each step, with its expected content."""
    tree: Tree[int] | None = None
    oracle: Blocks = {}
    played = []
    for step in history:
        tree = nodes.build(step.blocks, tree, step.writes)
        oracle = {at: value for at, value in oracle.items() if at < step.blocks}
        for at, value in step.writes.items():
            oracle.pop(at, None)
            if value is not None:
                oracle[at] = value
        played.append((tree, oracle))
    return played


@pytest.mark.parametrize(
    ("blocks", "height"),
    [(0, 1), (1, 1), (64, 1), (65, 2), (4096, 2), (4097, 3), (262144, 3), (262145, 4)],
)
def test_a_tree_is_as_high_as_its_blocks_need(blocks: int, height: int) -> None:
    assert height_of(blocks) == height


@given(st.integers(0, 1 << 40), st.sampled_from([1, 4096, 65536]), st.integers(0, 7))
def test_a_shape_counts_nodes_rounding_up(size: int, block_size: int, level: int) -> None:
    shape = Shape(size, block_size)

    span = block_size * FANOUT**level
    assert (shape.nodes(level) - 1) * span < size <= shape.nodes(level) * span


@pytest.mark.parametrize(("size", "block_size"), [(-1, 1), (1, 0), (1, -4096)])
def test_an_invalid_shape_is_refused(size: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="invalid shape"):
        Shape(size, block_size)


@given(HISTORIES)
def test_every_point_of_a_history_holds_its_blocks(history: list[Step]) -> None:
    nodes = Nodes()

    played = play(nodes, history)

    assert all(content(nodes, tree) == oracle for tree, oracle in played)


@given(HISTORIES)
def test_equal_images_have_equal_roots_however_they_came_about(history: list[Step]) -> None:
    nodes = Nodes()

    for tree, oracle in play(nodes, history):
        rebuilt = nodes.build(tree.blocks, None, dict(oracle))

        assert tree.root == rebuilt.root


@given(steps(), st.data())
def test_leaves_that_are_put_as_zeros_change_nothing(step: Step, data: st.DataObject) -> None:
    nodes = Nodes()
    sparse = nodes.build(step.blocks, None, step.writes)
    last = max(step.blocks - 1, 0)
    zeros = data.draw(st.lists(st.integers(0, last), max_size=3)) if step.blocks else []

    padded = nodes.build(step.blocks, None, dict.fromkeys(zeros) | step.writes)

    assert padded.root == sparse.root


@given(HISTORIES)
def test_data_runs_are_the_blocks_that_hold_data(history: list[Step]) -> None:
    for tree, oracle in play(Nodes(), history):
        assert list(tree.data_runs()) == runs(oracle)


SOME_RUNS = st.lists(st.tuples(st.integers(0, 300000), st.integers(1, 300)), max_size=5)


@given(HISTORIES, SOME_RUNS)
def test_data_blocks_in_runs_are_those_of_the_disk(
    history: list[Step], drawn: list[tuple[int, int]]
) -> None:
    for tree, oracle in play(Nodes(), history):
        near = [(max(at - 1, 0), 2) for at in list(oracle)[:2]]
        inside = {at for first, count in (*drawn, *near) for at in range(first, first + count)}
        asked = [(first, first + count) for first, count in runs(inside)]

        assert list(tree.data_blocks_in(asked)) == sorted(inside & oracle.keys())


def test_only_nodes_of_the_runs_are_loaded() -> None:
    nodes = Nodes()
    tree = nodes.build(FANOUT**3, None, dict.fromkeys(range(0, FANOUT**3, FANOUT), 1))
    nodes.loaded = 0

    blocks = list(tree.data_blocks_in([(FANOUT, 2 * FANOUT), (FANOUT**3 - 1, FANOUT**3)]))

    assert blocks == [FANOUT]
    assert nodes.loaded == 1 + 2 + 2


@given(HISTORIES)
def test_leaves_ascend_and_hold_data(history: list[Step]) -> None:
    for tree, oracle in play(Nodes(), history):
        assert [index for index, _ in tree.leaves()] == sorted({at // FANOUT for at in oracle})


@given(HISTORIES, st.integers(0, 300000))
def test_children_of_a_leaf_are_its_blocks(history: list[Step], near: int) -> None:
    for tree, oracle in play(Nodes(), history):
        for block in (near, tree.blocks, 0, *list(oracle)[:3]):
            index = block // FANOUT
            expected = [oracle.get(index * FANOUT + slot) for slot in range(FANOUT)]

            assert tree.children(1, index) == expected


def test_children_above_the_root_are_refused() -> None:
    tree = Nodes().build(64, None, {0: 1})

    with pytest.raises(ValueError, match="above the root"):
        tree.children(2, 0)


@given(HISTORIES, HISTORIES)
def test_a_diff_lists_the_blocks_that_differ(ours: list[Step], theirs: list[Step]) -> None:
    nodes = Nodes()
    left, a = play(nodes, ours)[-1]
    right, b = play(nodes, theirs)[-1]

    differing = list(diff(left, right))

    assert differing == sorted(at for at in a.keys() | b.keys() if a.get(at) != b.get(at))


@given(HISTORIES)
def test_a_diff_of_neighbours_lists_the_changes_of_a_step(history: list[Step]) -> None:
    played = play(Nodes(), history)
    for (left, a), (right, b) in pairwise(played):
        assert list(diff(left, right)) == sorted(
            at for at in a.keys() | b.keys() if a.get(at) != b.get(at)
        )


@given(HISTORIES)
def test_a_diff_with_itself_loads_nothing(history: list[Step]) -> None:
    nodes = Nodes()
    tree, _ = play(nodes, history)[-1]
    nodes.loaded = 0

    assert list(diff(tree, nodes.tree(tree.root, tree.blocks))) == []
    assert nodes.loaded == 0


@given(HISTORIES)
def test_a_step_makes_nodes_only_on_the_paths_it_touches(history: list[Step]) -> None:
    nodes = Nodes()
    tree: Tree[int] | None = None
    for step in history:
        nodes.made = 0
        tree = nodes.build(step.blocks, tree, step.writes)
        paths = len({at // FANOUT for at in step.writes}) + 2  # the first and the last leaf

        assert nodes.made <= paths * tree.height


@given(HISTORIES)
def test_a_diff_loads_only_differing_nodes(history: list[Step]) -> None:
    nodes = Nodes()
    played = play(nodes, history)
    for (left, a), (right, b) in pairwise(played):
        nodes.loaded = 0
        changed = {at // FANOUT for at in a.keys() | b.keys() if a.get(at) != b.get(at)}
        list(diff(left, right))
        high = max(left.height, right.height)
        lifts = high * high if left.height != right.height else 0

        assert nodes.loaded <= 2 * high * (len(changed) + 1) + lifts


@given(steps())
@settings(max_examples=50)
def test_a_disk_that_only_grew_keeps_every_node(step: Step) -> None:
    nodes = Nodes()
    tree = nodes.build(step.blocks, None, step.writes)
    known = len(nodes.numbers)

    grown = nodes.build(1 << 25, tree, {})

    assert content(nodes, grown) == {at: v for at, v in step.writes.items() if v is not None}
    assert len(nodes.numbers) - known <= grown.height - tree.height


@given(steps(), st.sampled_from(EDGES))
def test_blocks_that_were_cut_are_zeros_when_the_disk_grows_again(step: Step, cut: int) -> None:
    nodes = Nodes()
    tree = nodes.build(300000, None, step.writes)

    again = nodes.build(300000, nodes.build(cut, tree, {}), {})

    kept = {at: v for at, v in step.writes.items() if v is not None and at < cut}
    assert content(nodes, again) == kept


def test_zeroing_the_last_block_leaves_no_tree() -> None:
    nodes = Nodes()
    tree = nodes.build(5000, None, {4999: 1})

    assert nodes.build(5000, tree, {4999: None}).root is None


@pytest.mark.parametrize("order", [(1, 1), (2, 1), (0, 79)])
def test_leaves_that_do_not_ascend_or_lie_outside_are_refused(order: tuple[int, int]) -> None:
    nodes = Nodes()
    builder = Builder(Shape(5000, 1), None, nodes.make)
    first, second = order
    builder.put_leaf(first, [1] * FANOUT)

    with pytest.raises(ValueError, match="leaf"):
        builder.put_leaf(second, [1] * FANOUT)


@given(steps(), st.data())
def test_the_leaves_put_so_far_form_a_tree_to_continue(step: Step, data: st.DataObject) -> None:
    nodes = Nodes()
    shape = Shape(step.blocks, 1)
    again = data.draw(steps().map(lambda other: other.writes))
    writes = {at: value for at, value in again.items() if at < step.blocks}
    base = nodes.build(step.blocks, None, step.writes)
    first = data.draw(st.integers(0, shape.leaves))
    before = {at: value for at, value in writes.items() if at // FANOUT < first}
    after = {at: value for at, value in writes.items() if at // FANOUT >= first}

    builder = Builder(shape, base, nodes.make)
    for index in sorted({at // FANOUT for at in before}):
        children = builder.leaf(index)
        for at, value in before.items():
            if at // FANOUT == index:
                children[at % FANOUT] = value
        builder.put_leaf(index, children)
    so_far = nodes.tree(builder.so_far(), step.blocks)
    finished = nodes.tree(builder.finish(), step.blocks)

    assert so_far.root == finished.root == nodes.build(step.blocks, base, before).root
    whole = nodes.build(step.blocks, base, writes)
    assert nodes.build(step.blocks, so_far, after).root == whole.root


def test_a_resized_disk_has_no_intermediate_tree() -> None:
    nodes = Nodes()
    base = nodes.build(5000, None, {4999: 1})

    with pytest.raises(ValueError, match="another size"):
        Builder(Shape(100, 1), base, nodes.make).so_far()
