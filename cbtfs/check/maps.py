"""Block maps from the roots down: every node's digest recomputed, each shared node once."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from cbtfs.check.report import Place, Problem
from cbtfs.core.blockmap import FANOUT, Shape
from cbtfs.core.extent import Extent, clip, coalesce
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, ObjectId, Ref
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged

_LEAF: Final = 1


class MapCheck:
    """Walks the block maps of points, and tells which extents the bad objects touch.

    *bad* are objects that cannot be had, each with its problem. Memory goes with the number of
    nodes, not of chunks.
    """

    def __init__(self, catalog: Catalog, bad: Mapping[ObjectId, Problem]) -> None:
        self._catalog = catalog
        self._bad = bad
        self._broken: dict[ObjectId, Problem] = {}
        """Nodes whose children cannot be known: all below them is out of reach."""
        self._roots: dict[bytes, Problem] = {}
        self._walked: set[ObjectId] = set()
        self._tainted: set[ObjectId] = set()
        """Nodes with something bad in them or below."""
        self.problems: list[Problem] = []

    def look_at(self, manifest: Manifest) -> None:
        """Walk the disks of a point, and enter in every problem where it shows there."""
        for disk in manifest.disks:
            if disk.root == NULL_DIGEST:
                continue
            touched: dict[Problem, list[Extent]] = defaultdict(list)
            for problem, extent in self._touched(disk):
                touched[problem] += clip([extent], 0, disk.size)
            for problem, extents in touched.items():
                found = tuple(coalesce(extents))
                vm, name = manifest.vm.name, manifest.name
                problem.places.append(Place(manifest.point, vm, disk.label, found, name))

    def _touched(self, disk: DiskRecord) -> Iterator[tuple[Problem, Extent]]:
        height = Shape(disk.size, disk.block_size).height
        with self._catalog.view() as view:
            number = view.find(Kind.NODE, height, disk.root)
        if number is None:
            yield self._missing(disk), Extent(0, disk.size)
            return
        root = Ref(number, disk.root)
        self._walk(root, height)
        yield from self._extents(root, height, 0, disk.block_size)

    def _missing(self, disk: DiskRecord) -> Problem:
        known = self._roots.get(disk.root)
        if known is None:
            what = f"block map {disk.root.hex()} is not in the catalog"
            known = self._roots[disk.root] = Problem("map", what, ChunkMissing)
            self.problems.append(known)
        return known

    def _children(self, node: Ref, level: int) -> list[Ref | None]:
        with self._catalog.view() as view:
            found = view.node(node.number, level, node.digest)
        return [
            None if digest is None else Ref(number, digest)
            for number, digest in zip(found.children, found.digests(), strict=True)
        ]

    def _walk(self, node: Ref, level: int) -> None:
        """Look at a node and all below it, unless it has been looked at."""
        number = node.number
        if number in self._walked:
            return
        self._walked.add(number)
        if number in self._bad:
            self._tainted.add(number)
        try:
            children = self._children(node, level)
        except CatalogDamaged as exc:
            problem = Problem("map", f"node {node.digest.hex()}: {exc}", DataCorrupt)
            self._broken[number] = problem
            self._tainted.add(number)
            self.problems.append(problem)
            return
        suspects = self._bad.keys() if level == _LEAF else self._tainted
        for child in children:
            if child is None:
                continue
            if level > _LEAF:
                self._walk(child, level - 1)
            if child.number in suspects:
                self._tainted.add(number)

    def _extents(
        self, node: Ref, level: int, index: int, block_size: int
    ) -> Iterator[tuple[Problem, Extent]]:
        """Yield what is bad in a tainted node or below, with the extent that it takes along."""
        if node.number not in self._tainted:
            return
        span = int(FANOUT**level) * block_size
        for problems in (self._bad, self._broken):
            if node.number in problems:
                yield problems[node.number], Extent(index * span, span)
        if node.number in self._broken:
            return
        for slot, child in enumerate(self._children(node, level)):
            if child is None:
                continue
            if level > _LEAF:
                yield from self._extents(child, level - 1, index * FANOUT + slot, block_size)
            elif child.number in self._bad:
                block = index * FANOUT + slot
                yield self._bad[child.number], Extent(block * block_size, block_size)
