"""Which objects restore points need: one bit for each object, found from the roots down."""

import struct
from collections.abc import Callable, Collection, Iterable
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, ObjectId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import location_digest
from cbtfs.store.catalog.view import View

_NODES_A_VIEW: Final = 2048
"""Nodes that are looked at before the view is renewed: none is held for long beside a writer."""

_PACK = struct.Struct("<I")

Progress = Callable[[int], None]
"""Told how many bytes of disks more have been gone through."""


class Marks:
    """A set of object ids, one bit each."""

    def __init__(self, ids: int) -> None:
        self._bits = bytearray(ids // 8 + 1)

    def __contains__(self, number: int) -> bool:
        return bool(self._bits[number >> 3] >> (number & 7) & 1)

    def has(self, number: int) -> bool:
        """The same, for an id that may be younger than the set."""
        return number >> 3 < len(self._bits) and number in self

    def add(self, number: int) -> bool:
        """Put *number* in; whether it was not there."""
        at, bit = number >> 3, 1 << (number & 7)
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        return True


class Marking:
    """Marks what manifests need. A node that is marked is not gone through again."""

    def __init__(self, catalog: Catalog, packs: Collection[int]) -> None:
        """*packs* are the numbers of packs that stand."""
        self._catalog = catalog
        self._packs = packs
        with catalog.view() as view:
            self.marks = Marks(view.next_object())

    def mark(self, manifests: Iterable[Manifest], progress: Progress = lambda _: None) -> None:
        """Mark all that *manifests* need, recomputing the digest of every node.

        ChunkMissing or DataCorrupt at the first thing that does not resolve: then the marks are
        of no use.
        """
        for manifest in manifests:
            for disk in manifest.disks:
                try:
                    self.mark_disk(disk)
                except (ChunkMissing, DataCorrupt) as exc:
                    where = f"point {manifest.point} of {manifest.vm.name}, disk {disk.label}"
                    raise type(exc)(f"{where}: {exc}") from exc
                progress(disk.size)

    def mark_disk(self, disk: DiskRecord) -> None:
        if disk.root == NULL_DIGEST:
            return
        height = Shape(disk.size, disk.block_size).height
        with self._catalog.view() as view:
            root = view.find(Kind.NODE, height, disk.root)
        if root is None:
            raise ChunkMissing(f"the block map {disk.root.hex()} is missing")
        if not self.marks.add(root):
            return
        pending = [(root, height, disk.root)]
        while pending:
            with self._catalog.view() as view:
                for _ in range(_NODES_A_VIEW):
                    if not pending:
                        break
                    self._mark_children(view, *pending.pop(), pending)

    def _mark_children(
        self,
        view: View,
        number: ObjectId,
        level: int,
        digest: Digest,
        pending: list[tuple[ObjectId, int, Digest]],
    ) -> None:
        node = view.node(number, level, digest)
        for child, entry in zip(node.children, node.entries, strict=True):
            if entry is None:
                continue
            (pack,) = _PACK.unpack_from(entry)
            if pack not in self._packs:
                raise ChunkMissing(f"object {location_digest(entry).hex()} has no pack")
            if self.marks.add(child) and level > 1:
                pending.append((child, level - 1, location_digest(entry)))
