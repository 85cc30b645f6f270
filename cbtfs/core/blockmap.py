"""The block map as a persistent tree: shape, build, walk and diff.

A leaf (level 1) has the chunks of 64 consecutive blocks as children. A node of level n has 64
nodes of level n - 1. A child is None if its whole range is zeros. A tree has the smallest height
that fits its blocks, so a disk that grows gets levels on top, and its old tree becomes child 0.

References to objects are opaque here: any values that can be compared. The caller loads them.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, Union

FANOUT: Final = 64

NodeRef = TypeVar("NodeRef")
Children = Sequence[NodeRef | None]
Load = Callable[[NodeRef, int], Children[NodeRef]]
"""Callback that returns the 64 children of a node, given its reference and its level."""


def height_of(blocks: int) -> int:
    """Return the level of the root of a tree over *blocks* blocks, at least 1."""
    height, covered = 1, FANOUT
    while covered < blocks:
        height, covered = height + 1, covered * FANOUT
    return height


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of the tree of a disk of *size* bytes in blocks of *block_size* bytes."""

    size: int
    block_size: int

    def __post_init__(self) -> None:
        if self.size < 0 or self.block_size <= 0:
            raise ValueError(f"invalid shape: size {self.size}, block size {self.block_size}")

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block_size)

    @property
    def height(self) -> int:
        return height_of(self.blocks)

    @property
    def leaves(self) -> int:
        return self.nodes(1)

    def nodes(self, level: int) -> int:
        """Return the maximum number of nodes of *level* (chunks for level 0)."""
        return -(-self.blocks // int(FANOUT**level))


@dataclass(frozen=True, slots=True)
class AboveRoot:
    """A virtual node above the root of a shorter tree: only child 0, towards the root, is set."""


_ABOVE_ROOT: Final = AboveRoot()
TreeNode = Union[NodeRef, AboveRoot, None]  # noqa: UP007 (a generic alias, evaluated at run time)


def is_virtual(node: TreeNode[NodeRef]) -> bool:
    """Return whether *node* is above the root of a tree. Such nodes of two trees are not equal."""
    return isinstance(node, AboveRoot)


class Tree(Generic[NodeRef]):
    """One block map: its root, its number of blocks, and a callback that loads nodes."""

    def __init__(self, root: NodeRef | None, blocks: int, load: Load[NodeRef]) -> None:
        self.root = root
        self.blocks = blocks
        self.height = height_of(blocks)
        self._load = load

    def top(self, level: int) -> TreeNode[NodeRef]:
        """Return the node of *level* over the blocks from 0 on; above the root it is virtual."""
        if level > self.height:
            return None if self.root is None else _ABOVE_ROOT
        node = self.root
        for above in range(self.height, level, -1):
            if node is None:
                return None
            node = self._load(node, above)[0]
        return node

    def below(self, node: TreeNode[NodeRef], level: int) -> Sequence[TreeNode[NodeRef]]:
        """Return the 64 children of a *node* of *level* of this tree; all None for None."""
        if node is None:
            return (None,) * FANOUT
        if isinstance(node, AboveRoot):
            return (self.top(level - 1), *(None,) * (FANOUT - 1))
        return self._load(node, level)

    def children(self, level: int, index: int) -> list[NodeRef | None]:
        """Return the 64 children of node *index* of *level*; all None if the node does not exist.

        Raises:
            ValueError: *level* is above the root.
        """
        if level > self.height:
            raise ValueError(f"level {level} is above the root")
        at, node = self.height, self.root
        if index >= FANOUT ** (at - level):
            node = None
        while node is not None and at > level:
            at -= 1
            node = self._load(node, at + 1)[index // FANOUT ** (at - level) % FANOUT]
        return [None] * FANOUT if node is None else list(self._load(node, level))

    def leaves(self, first: int = 0) -> Iterator[tuple[int, NodeRef]]:
        """Yield index and reference of every leaf from *first* on that holds data, ascending."""
        yield from self._walk(self.root, self.height, 0, first)

    def _walk(
        self, node: NodeRef | None, level: int, index: int, first: int
    ) -> Iterator[tuple[int, NodeRef]]:
        if node is None or (index + 1) * FANOUT ** (level - 1) <= first:
            return
        if level == 1:
            yield index, node
            return
        for slot, child in enumerate(self._load(node, level)):
            yield from self._walk(child, level - 1, index * FANOUT + slot, first)

    def data_blocks(self, first: int = 0) -> Iterator[int]:
        """Yield the index of every block from *first* on that holds data, ascending."""
        for index, leaf in self.leaves(first // FANOUT):
            for slot, child in enumerate(self._load(leaf, 1)):
                block = index * FANOUT + slot
                if child is not None and block >= first:
                    yield block

    def blocks_of(self, is_wanted: Callable[[NodeRef], bool]) -> Iterator[int]:
        """Yield the index of every block whose chunk *is_wanted*, ascending."""
        for index, leaf in self.leaves():
            for slot, child in enumerate(self._load(leaf, 1)):
                if child is not None and is_wanted(child):
                    yield index * FANOUT + slot

    def data_blocks_in(self, runs: Sequence[tuple[int, int]]) -> Iterator[int]:
        """Yield the index of every block in *runs* that holds data, ascending.

        A run is (first block, end). Runs ascend and are disjoint. Loads only nodes that a run
        touches.
        """
        yield from self._within(self.root, self.height, 0, runs, [end for _, end in runs])

    def _within(
        self,
        node: NodeRef | None,
        level: int,
        index: int,
        runs: Sequence[tuple[int, int]],
        ends: Sequence[int],
    ) -> Iterator[int]:
        first, width = index * FANOUT**level, FANOUT**level
        at = bisect_right(ends, first)
        if node is None or at == len(runs) or runs[at][0] >= first + width:
            return
        if level == 0:
            yield index
            return
        for slot, child in enumerate(self._load(node, level)):
            yield from self._within(child, level - 1, index * FANOUT + slot, runs, ends)

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first block, blocks) of every run of blocks that hold data, ascending."""
        yield from runs_of(self.data_blocks())


def runs_of(blocks: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first block, blocks) of every run of consecutive numbers in ascending *blocks*."""
    first = count = 0
    for block in blocks:
        if count and block == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = block, 1
    if count:
        yield first, count


def diff(left: Tree[NodeRef], right: Tree[NodeRef], first: int = 0) -> Iterator[int]:
    """Yield the indexes of blocks that differ, from *first* on, ascending.

    Does not load equal subtrees and those before *first*.
    """
    level = max(left.height, right.height)
    yield from _differ((left, right), (left.top(level), right.top(level)), level, 0, first)


def _differ(
    trees: tuple[Tree[NodeRef], Tree[NodeRef]],
    nodes: tuple[TreeNode[NodeRef], TreeNode[NodeRef]],
    level: int,
    index: int,
    first: int,
) -> Iterator[int]:
    a, b = nodes
    if (index + 1) * FANOUT**level <= first or (a == b and not is_virtual(a)):
        return
    if level == 0:
        yield index
        return
    left, right = trees
    pairs = zip(left.below(a, level), right.below(b, level), strict=True)
    may_be_virtual = is_virtual(a) or is_virtual(b)
    for slot, below in enumerate(pairs):
        if below[0] == below[1] and not (may_be_virtual and is_virtual(below[0])):
            continue  # most pairs: a generator would take ten times as long
        yield from _differ(trees, below, level - 1, index * FANOUT + slot, first)


@dataclass(slots=True)
class _PendingNode(Generic[NodeRef]):
    index: int
    children: list[NodeRef | None]


class Builder(Generic[NodeRef]):
    """Builds the tree of a disk from its changed leaves and a base tree.

    *make* stores a node, given its level and its 64 children, and returns its reference. It is
    never called with only null children. Leaves are put in ascending order. Subtrees without a
    changed leaf are shared with the base. The part of the base beyond the disk's end is cut.
    """

    def __init__(
        self,
        shape: Shape,
        base: Tree[NodeRef] | None,
        make: Callable[[int, Children[NodeRef]], NodeRef],
    ) -> None:
        self._shape = shape
        self._height = shape.height
        self._base = base if base is not None and base.root is not None else None
        self._make = make
        self._open: dict[int, _PendingNode[NodeRef]] = {}
        self._root: NodeRef | None = None
        self._last_leaf = -1

    def leaf(self, index: int) -> list[NodeRef | None]:
        """Return the children of leaf *index* in the base, cut at the disk's end."""
        return self._inherited(1, index)

    def put_leaf(self, index: int, children: Sequence[NodeRef | None]) -> None:
        """Set the children of leaf *index*; indexes must ascend."""
        if not self._last_leaf < index < self._shape.leaves:
            raise ValueError(f"leaf {index} after {self._last_leaf} of {self._shape.leaves}")
        if self._last_leaf < 0 < index and self._is_grown:
            self._rebuild_path(0)
        self._last_leaf = index
        self._put(1, index, children)

    def so_far(self) -> NodeRef | None:
        """Store the pending nodes and return the root so far; more leaves may follow.

        The tree is the base with the leaves that were put.

        Raises:
            ValueError: the base has another size, so that only finish() can cut it.
        """
        if self._base is not None and self._base.blocks != self._shape.blocks:
            raise ValueError("the base has another size")
        if self._last_leaf < 0:
            return None if self._base is None else self._base.root
        if self._height == 1:
            return self._root
        below: tuple[int, NodeRef | None] | None = None
        for level in range(2, self._height + 1):
            node = self._open.get(level)
            if node is not None:
                index, children = node.index, list(node.children)
            else:
                assert below is not None
                index = below[0] // FANOUT
                children = self._inherited(level, index)
            if below is not None:
                children[below[0] % FANOUT] = below[1]
            is_data = any(child is not None for child in children)
            below = index, self._make(level, children) if is_data else None
        assert below is not None
        return below[1]

    def finish(self) -> NodeRef | None:
        """Store the pending nodes and return the root; None if the whole disk is zeros."""
        last = self._shape.leaves - 1
        if last < 0:
            return None
        if self._last_leaf < 0 and self._is_grown:
            self._rebuild_path(0)
        if self._last_leaf < last and self._is_cut:
            self._rebuild_path(last)
        if self._last_leaf < 0:
            return None if self._base is None else self._base.root
        for level in range(2, self._height + 1):
            self._close(level)
        return self._root

    @property
    def _is_grown(self) -> bool:
        return self._base is not None and self._base.height < self._height

    @property
    def _is_cut(self) -> bool:
        return self._base is not None and self._base.blocks > self._shape.blocks

    def _rebuild_path(self, leaf: int) -> None:
        """Rebuild the nodes above the first leaf (of a tree that grows) or the last (to cut it)."""
        self._last_leaf = leaf
        self._put(1, leaf, self._inherited(1, leaf))

    def _inherited(self, level: int, index: int) -> list[NodeRef | None]:
        if self._base is None or level > self._base.height:
            return [None] * FANOUT
        children = self._base.children(level, index)
        limit = self._shape.nodes(level - 1) - index * FANOUT
        if limit < FANOUT:
            children[limit:] = [None] * (FANOUT - limit)
        return children

    def _put(self, level: int, index: int, children: Sequence[NodeRef | None]) -> None:
        ref = self._make(level, children) if any(c is not None for c in children) else None
        if level == self._height:
            self._root = ref
            return
        above, slot = divmod(index, FANOUT)
        node = self._open.get(level + 1)
        if node is None or node.index != above:
            self._close(level + 1)
            node = self._open[level + 1] = _PendingNode(above, self._inherited(level + 1, above))
        node.children[slot] = ref

    def _close(self, level: int) -> None:
        node = self._open.pop(level, None)
        if node is not None:
            self._put(level, node.index, node.children)
