"""Which version of a disk wrote each block, found by one walk of the block maps of all versions.

The result equals that of comparing every version with the one before it. Subtrees that are equal in
consecutive versions are looked at once, whatever the number of versions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, pairwise
from operator import is_not
from typing import Final, Generic, NamedTuple

from cbtfs.core.blockmap import FANOUT, AboveRoot, NodeRef, Tree, TreeNode, is_virtual
from cbtfs.core.extent import Extent

_ALL: Final = range(FANOUT)


Numbered = tuple[int, TreeNode[NodeRef]]
"""The index of a version, and its node."""


class WrittenBlocks(NamedTuple):
    """A run of blocks that the same version wrote."""

    first: int
    blocks: int
    version: int
    """Index of the version that last changed them; 0 if no later version did."""


class WrittenExtent(NamedTuple):
    """A byte range that the same version wrote."""

    extent: Extent
    version: int


def written_blocks(
    versions: Sequence[Tree[NodeRef]],
    first: int,
    end: int,
    chunks: Callable[[NodeRef], Sequence[object]] | None = None,
) -> Iterator[WrittenBlocks]:
    """Yield which of *versions*, oldest first, wrote the blocks [first, end), ascending.

    A version wrote a block if the block differs from that of the version before. Blocks that are
    equal in all versions have version 0. *end* is at most the number of blocks of the last version.
    *chunks* returns the names of the chunks of a leaf, 64 values to compare; None: its children.
    """
    level = max(tree.height for tree in versions)
    walk = _Walk(versions, first, end, chunks)
    tops = [(number, tree.top(level)) for number, tree in enumerate(versions)]
    run: WrittenBlocks | None = None
    for part in walk.node(_distinct(reversed(tops)), level, 0):
        if run is not None and run.version == part.version:
            run = WrittenBlocks(run.first, run.blocks + part.blocks, run.version)
            continue
        if run is not None:
            yield run
        run = part
    if run is not None:
        yield run


def _distinct(nodes: Iterable[Numbered[NodeRef]]) -> list[Numbered[NodeRef]]:
    """Reduce runs of equal *nodes*, newest first, to their last item: the oldest version."""
    kept: list[Numbered[NodeRef]] = []
    for number, node in nodes:
        if kept and kept[-1][1] == node and not is_virtual(node):
            kept[-1] = number, node
        else:
            kept.append((number, node))
    return kept


def _columns(
    lists: Sequence[tuple[int, Sequence[TreeNode[NodeRef]]]],
) -> list[list[Numbered[NodeRef]]]:
    """Return the result of _distinct() for each of the 64 places of *lists*, newest first.

    Most items of a list are those of the list before, and often the same objects.
    """
    columns: list[list[Numbered[NodeRef]]] = [[] for _ in _ALL]
    number, newer = lists[0]
    for older_number, older in lists[1:]:
        for slot in compress(_ALL, map(is_not, newer, older)):
            if newer[slot] != older[slot]:
                columns[slot].append((number, newer[slot]))
        if is_virtual(newer[0]) and newer[0] is older[0]:
            columns[0].append((number, newer[0]))
        number, newer = older_number, older
    for column, node in zip(columns, newer, strict=True):
        column.append((number, node))
    return columns


class _Walk(Generic[NodeRef]):
    """The walk of the block maps of several versions of a disk at once."""

    def __init__(
        self,
        versions: Sequence[Tree[NodeRef]],
        first: int,
        end: int,
        chunks: Callable[[NodeRef], Sequence[object]] | None,
    ) -> None:
        self._versions = versions
        self._first = first
        self._end = end
        self._chunks = chunks

    def node(
        self, nodes: Sequence[Numbered[NodeRef]], level: int, index: int
    ) -> Iterator[WrittenBlocks]:
        """Yield the writers of the blocks below *nodes*, which are distinct, newest first."""
        width = FANOUT**level
        first, end = max(self._first, index * width), min(self._end, (index + 1) * width)
        if first >= end:
            return
        if len(nodes) == 1:
            yield WrittenBlocks(first, end - first, nodes[0][0])
        elif level == 1:
            yield from self._leaf(nodes, index, first, end)
        else:
            lists = [(number, self._versions[number].below(node, level)) for number, node in nodes]
            for slot, below in enumerate(_columns(lists)):
                yield from self.node(below, level - 1, index * FANOUT + slot)

    def _leaf(
        self, nodes: Sequence[Numbered[NodeRef]], index: int, first: int, end: int
    ) -> Iterator[WrittenBlocks]:
        """Yield the writers of the blocks of a leaf; stop at the version that resolves the last."""
        unresolved = list(_ALL[first - index * FANOUT : end - index * FANOUT])
        writers = dict.fromkeys(unresolved, nodes[-1][0])
        newer: Sequence[object] | None = None
        writer = 0
        for number, node in nodes:
            older = self._names(number, node)
            if newer is not None:
                equal = []
                for slot in unresolved:
                    if newer[slot] == older[slot]:
                        equal.append(slot)
                    else:
                        writers[slot] = writer
                unresolved = equal
                if not unresolved:
                    break
            newer, writer = older, number
        for slot, version in writers.items():
            yield WrittenBlocks(index * FANOUT + slot, 1, version)

    def _names(self, number: int, node: TreeNode[NodeRef]) -> Sequence[object]:
        if self._chunks is None or node is None or isinstance(node, AboveRoot):
            return self._versions[number].below(node, 1)
        return self._chunks(node)


def written_extents(
    blocks: Iterable[WrittenBlocks], sizes: Sequence[int], block_size: int, area: Extent
) -> Iterator[WrittenExtent]:
    """Yield the writers of *area* in bytes, ascending.

    *blocks* covers the area. *sizes* are those of all versions in bytes. Bytes beyond the end of a
    version, or of the one before it, count as written by it if the other version has them.
    """
    resizes = [
        (min(before, size), max(before, size), number)
        for number, (before, size) in enumerate(pairwise(sizes), 1)
        if before != size
    ]
    edges = sorted({edge for start, end, _ in resizes for edge in (start, end)})
    run: WrittenExtent | None = None
    for first, count, version in blocks:
        start = max(area.start, first * block_size)
        end = min(area.end, (first + count) * block_size)
        inner = [edge for edge in edges if start < edge < end]
        for at, until in zip([start, *inner], [*inner, end], strict=True):
            writer = max([version, *(number for a, b, number in resizes if a <= at < b)])
            if run is not None and run.version == writer:
                run = WrittenExtent(Extent(run.extent.start, until - run.extent.start), writer)
                continue
            if run is not None:
                yield run
            run = WrittenExtent(Extent(at, until - at), writer)
    if run is not None:
        yield run
