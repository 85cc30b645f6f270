"""Owners of objects: the point that alone references an object."""

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, ObjectId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import location_digest

NOBODY: Final = 0
SHARED: Final = 0xFFFFFFFF

_NODES_PER_VIEW: Final = 2048

Progress = Callable[[int], None]


class Owners:
    """The only point that references each object, in four bytes per object.

    A subtree is visited for the first point that references it, and once more for the second
    point, which makes it shared.
    """

    def __init__(self, catalog: Catalog, objects: int) -> None:
        self._catalog = catalog
        self._owner = array("I", bytes(4 * (objects + 1)))

    def of(self, number: int) -> int:
        """Return NOBODY, SHARED or the number of a point; NOBODY for a newer object."""
        return self._owner[number] if number < len(self._owner) else NOBODY

    def add(self, point: int, manifest: Manifest) -> None:
        """Enter all objects of *manifest* for point number *point*, which starts at 1."""
        for disk in manifest.disks:
            if disk.root != NULL_DIGEST:
                self._add_disk(point, disk)

    def _claim(self, number: ObjectId, point: int) -> bool:
        """Enter an object; return whether its subtree must be visited."""
        owner = self._owner[number]
        if owner in (point, SHARED):
            return False
        self._owner[number] = point if owner == NOBODY else SHARED
        return True

    def _add_disk(self, point: int, disk: DiskRecord) -> None:
        height = Shape(disk.size, disk.block_size).height
        with self._catalog.view() as view:
            root = view.find(Kind.NODE, height, disk.root)
        if root is None:
            raise ChunkMissing(f"the block map {disk.root.hex()} is missing: run check")
        pending: list[tuple[ObjectId, int, Digest]] = []
        if self._claim(root, point):
            pending.append((root, height, disk.root))
        while pending:
            with self._catalog.view() as view:
                for _ in range(min(_NODES_PER_VIEW, len(pending))):
                    number, level, digest = pending.pop()
                    node = view.node(number, level, digest)
                    for child, entry in zip(node.children, node.entries, strict=True):
                        if entry is not None and self._claim(child, point) and level > 1:
                            pending.append((child, level - 1, location_digest(entry)))


def owners_of(
    catalog: Catalog, manifests: Sequence[Manifest], progress: Progress = lambda _: None
) -> Owners:
    """Return the owners of all objects; points are numbered from 1 in order of *manifests*."""
    with catalog.view() as view:
        owners = Owners(catalog, view.next_object())
    for number, manifest in enumerate(manifests, 1):
        owners.add(number, manifest)
        progress(sum(disk.size for disk in manifest.disks))
    return owners
