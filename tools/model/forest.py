"""Contents of disks in the model: trees of numbered objects. Equal contents have equal numbers."""

from collections.abc import Sequence


class Forest:
    """All trees of one world. A chunk has no children, a node has at least one."""

    def __init__(self, chunks: int) -> None:
        self.chunks = range(chunks)
        self._children: dict[int, tuple[int, ...]] = dict.fromkeys(self.chunks, ())
        self._nodes: dict[tuple[int, ...], int] = {}
        self._closures: dict[int, frozenset[int]] = {}

    def node(self, children: Sequence[int]) -> int:
        """Return the node with these children."""
        key = tuple(children)
        if key not in self._nodes:
            self._nodes[key] = number = len(self._children)
            self._children[number] = key
        return self._nodes[key]

    def children(self, number: int) -> tuple[int, ...]:
        return self._children[number]

    def closure(self, number: int) -> frozenset[int]:
        """Return an object and everything below it."""
        if number not in self._closures:
            parts = [self.closure(child) for child in self._children[number]]
            self._closures[number] = frozenset([number]).union(*parts)
        return self._closures[number]
