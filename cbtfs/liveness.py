"""Mark the objects that restore points reference, from the roots down."""

import struct
from collections.abc import Callable, Container, Iterable
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, ObjectId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import location_digest
from cbtfs.store.catalog.view import View

_NODES_PER_VIEW: Final = 2048
"""Nodes visited per view of the catalog: a long view keeps a writer from reusing pages."""

_PACK = struct.Struct("<I")

Progress = Callable[[int], None]
"""Called with the number of disk bytes processed since the last call."""


class ObjectSet:
    """A set of object ids, one bit each."""

    def __init__(self, ids: int) -> None:
        self._bits = bytearray(ids // 8 + 1)

    def __contains__(self, number: int) -> bool:
        try:
            return bool(self._bits[number >> 3] >> (number & 7) & 1)
        except IndexError:
            return False

    def has(self, number: int) -> bool:
        """Return True if the set contains *number*, which may be newer than the set."""
        return number >> 3 < len(self._bits) and number in self

    def add(self, number: int) -> bool:
        """Add *number*. Return False if it was in the set already."""
        index, bit = number >> 3, 1 << (number & 7)
        if index >= len(self._bits):  # Another writer has added it since.
            self._bits.extend(bytes(index + 1 - len(self._bits)))
        if self._bits[index] & bit:
            return False
        self._bits[index] |= bit
        return True


class Marker:
    """Marks the objects that manifests reference. Each node is visited once."""

    def __init__(self, catalog: Catalog, packs: Container[int]) -> None:
        """*packs* are the numbers of the packs that exist."""
        self._catalog = catalog
        self._packs = packs
        with catalog.view() as view:
            self.marked = ObjectSet(view.next_object())

    def mark(self, manifests: Iterable[Manifest], on_progress: Progress = lambda _: None) -> None:
        """Mark all objects of *manifests*, and recompute the digest of every node.

        Raises:
            ChunkMissing: an object or its pack does not exist; the set is then incomplete.
            DataCorrupt: a node does not match its digest; the set is then incomplete.
        """
        for manifest in manifests:
            for disk in manifest.disks:
                try:
                    self.mark_disk(disk)
                except (ChunkMissing, DataCorrupt) as exc:
                    where = f"point {manifest.point} of {manifest.vm.name}, disk {disk.label}"
                    raise type(exc)(f"{where}: {exc}") from exc
                on_progress(disk.size)

    def mark_disk(self, disk: DiskRecord) -> None:
        """Mark all objects of one disk. Raises what mark() raises."""
        if disk.root == NULL_DIGEST:
            return
        height = Shape(disk.size, disk.block_size).height
        with self._catalog.view() as view:
            root = view.find(Kind.NODE, height, disk.root)
        if root is None:
            raise ChunkMissing(f"block map {disk.root.hex()} is missing")
        if not self.marked.add(root):
            return
        pending = [(root, height, disk.root)]
        while pending:
            with self._catalog.view() as view:
                for _ in range(_NODES_PER_VIEW):
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
                raise ChunkMissing(
                    f"object {location_digest(entry).hex()} is in a pack that does not exist"
                )
            if self.marked.add(child) and level > 1:
                pending.append((child, level - 1, location_digest(entry)))
