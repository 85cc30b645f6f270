"""Objects that a writer must not use: those in condemned packs, and every node above them.

A prune waits for the intents that exist when its candidates do. A writer that began later does not
use these packs. Without candidates at its look, it may use everything that the catalog knows.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, ObjectId, PackId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt, StoreFailed
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.view import View
from cbtfs.store.packs import PackFolder


def frames_of(packs: PackFolder, wanted: Iterable[PackId]) -> dict[PackId, list[Frame]]:
    """Return the frames of those of *wanted* packs that exist and are readable."""
    frames = {}
    for pack in sorted(wanted):
        with suppress(ChunkMissing, DataCorrupt):
            frames[pack] = packs.frames(pack)[0]
    return frames


def located_in(view: View, frames: Mapping[PackId, Iterable[Frame]]) -> dict[ObjectId, Location]:
    """Return the objects that the catalog locates in the packs with these frames."""
    numbers = view.pack_numbers()
    located = {}
    for pack, known in frames.items():
        for frame in known:
            for number in view.find_all(frame.kind, frame.level, frame.digest):
                location = view.location(number)
                if location is not None and location.pack == numbers.get(pack):
                    located[number] = location
    return located


class Avoided:
    """The unusable objects of a catalog after one look. Safe to use from several threads."""

    def __init__(self, catalog: Catalog, packs: PackFolder, condemned: Collection[PackId]) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._numbers: frozenset[int] = frozenset()
        self._objects: set[int] = set()
        self._limit = 0
        if condemned:
            self._find(packs, condemned)

    @property
    def is_empty(self) -> bool:
        return not self._numbers

    def _find(self, packs: PackFolder, condemned: Collection[PackId]) -> None:
        frames = frames_of(packs, condemned)
        with self._catalog.view() as view:
            numbers = view.pack_numbers()
            self._numbers = frozenset(numbers[pack] for pack in condemned if pack in numbers)
            self._limit = view.next_object()
            self._objects.update(located_in(view, frames))
            if self._objects:
                self._add_parents(view, min(self._objects))

    def _add_parents(self, view: View, start: int) -> None:
        """Add the nodes from *start* on that have an unusable child: children precede parents."""
        for node, children in view.children_from(start):
            if not self._objects.isdisjoint(children):
                self._objects.add(node)

    def is_usable(self, view: View, number: ObjectId) -> bool:
        """Return whether a writer may refer to an object, with its whole subtree."""
        if not self._numbers:
            return True
        with self._lock:
            if number >= self._limit:
                self._extend(view)
            return number not in self._objects and number < self._limit

    def _extend(self, view: View) -> None:
        """Examine the objects that were added since: by a writer that may use condemned packs."""
        start, self._limit = self._limit, view.next_object()
        for number, location in view.locations_from(start):
            if location.pack in self._numbers:
                self._objects.add(number)
        self._add_parents(view, start)

    def refuse_unusable(self, manifest: Manifest) -> None:
        """Raise StoreFailed unless all objects of *manifest* are known and usable."""
        with self._catalog.view() as view:
            for disk in manifest.disks:
                if disk.root == NULL_DIGEST:
                    continue
                height = Shape(disk.size, disk.block_size).height
                roots = view.find_all(Kind.NODE, height, disk.root)
                if not any(self.is_usable(view, root) for root in roots):
                    raise StoreFailed(
                        f"the point is not committed: disk {disk.label} needs packs that a prune "
                        "is about to delete; run the command again"
                    )

    def restore(self) -> None:
        """Examine all objects again, after endangered ones were stored once more."""
        with self._lock, self._catalog.view() as view:
            left = {
                number
                for number in self._objects
                if (location := view.location(ObjectId(number))) is not None
                and location.pack in self._numbers
            }
            self._objects = left
            if left:
                self._add_parents(view, min(left))

    def endangered(self, manifests: Iterable[Manifest]) -> set[ObjectId]:
        """Return the objects of *manifests* that are in condemned packs."""
        found: set[ObjectId] = set()
        if not self._objects:
            return found
        visited: set[int] = set()
        with self._catalog.view() as view:
            for manifest in manifests:
                for disk in manifest.disks:
                    if disk.root != NULL_DIGEST:
                        height = Shape(disk.size, disk.block_size).height
                        root = view.find(Kind.NODE, height, disk.root)
                        if root is not None:
                            self._descend(view, root, found, visited)
        return found

    def _descend(self, view: View, root: ObjectId, found: set[ObjectId], visited: set[int]) -> None:
        pending = [root]
        while pending:
            number = pending.pop()
            if number not in self._objects or number in visited:
                continue
            visited.add(number)
            location = view.location(number)
            if location is None:
                continue
            if location.pack in self._numbers:
                found.add(number)
            if location.frame.kind is Kind.NODE:
                pending += (child for child in view.children(number) if child)
