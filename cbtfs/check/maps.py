"""Verification of block maps: recomputes the digest of every node once, from the roots down."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from cbtfs.check.report import AffectedDisk, Problem
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
    """Verifies the block maps of points and finds the extents that unreadable objects affect.

    *unreadable* are objects, each with its problem. Memory grows with the number of nodes and not
    with the number of chunks.
    """

    def __init__(self, catalog: Catalog, unreadable: Mapping[ObjectId, Problem]) -> None:
        self._catalog = catalog
        self._unreadable = unreadable
        self._broken: dict[ObjectId, Problem] = {}
        """Nodes whose children are unknown, so that their subtrees cannot be reached."""
        self._roots: dict[bytes, Problem] = {}
        self._walked: set[ObjectId] = set()
        self._tainted: set[ObjectId] = set()
        """Nodes that are unreadable or broken, or have such a descendant."""
        self.problems: list[Problem] = []

    def verify(self, manifest: Manifest) -> None:
        """Walk the disks of a point, and add the affected extents to the problems."""
        for disk in manifest.disks:
            if disk.root == NULL_DIGEST:
                continue
            affected: dict[Problem, list[Extent]] = defaultdict(list)
            for problem, extent in self._affected(disk):
                affected[problem] += clip([extent], 0, disk.size)
            for problem, extents in affected.items():
                merged = tuple(coalesce(extents))
                vm, name = manifest.vm.name, manifest.name
                problem.places.append(AffectedDisk(manifest.point, vm, disk.label, merged, name))

    def _affected(self, disk: DiskRecord) -> Iterator[tuple[Problem, Extent]]:
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
            loaded = view.node(node.number, level, node.digest)
        return [
            None if digest is None else Ref(number, digest)
            for number, digest in zip(loaded.children, loaded.digests(), strict=True)
        ]

    def _walk(self, node: Ref, level: int) -> None:
        """Verify a node and its subtree, unless this was done before."""
        number = node.number
        if number in self._walked:
            return
        self._walked.add(number)
        if number in self._unreadable:
            self._tainted.add(number)
        try:
            children = self._children(node, level)
        except CatalogDamaged as exc:
            problem = Problem("map", f"node {node.digest.hex()}: {exc}", DataCorrupt)
            self._broken[number] = problem
            self._tainted.add(number)
            self.problems.append(problem)
            return
        suspects = self._unreadable.keys() if level == _LEAF else self._tainted
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
        """Yield the problems of a tainted node and its subtree, with the extents they affect."""
        if node.number not in self._tainted:
            return
        span = int(FANOUT**level) * block_size
        for problems in (self._unreadable, self._broken):
            if node.number in problems:
                yield problems[node.number], Extent(index * span, span)
        if node.number in self._broken:
            return
        for slot, child in enumerate(self._children(node, level)):
            if child is None:
                continue
            if level > _LEAF:
                yield from self._extents(child, level - 1, index * FANOUT + slot, block_size)
            elif child.number in self._unreadable:
                block = index * FANOUT + slot
                yield self._unreadable[child.number], Extent(block * block_size, block_size)
