"""Bytes at an offset of one disk at one restore point, verified before they are returned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.blockmap import FANOUT, Shape, Tree, diff
from cbtfs.core.extent import Extent, between, clip, coalesce
from cbtfs.core.frame import Codec, Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, PackId, Ref
from cbtfs.core.manifest import MAX_BLOCK_BYTES, DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location, location_digest
from cbtfs.store.catalog.view import Node
from cbtfs.store.files import WouldWait
from cbtfs.store.repository import Repository

CACHE_BYTES: Final = 64 << 20
"""Decoded chunks that one process keeps; the kernel's page cache holds what was read."""
_NODE_CACHE_BYTES: Final = 32 << 20
_NODE_BYTES: Final = 8 << 10
"""What a cached node weighs: 64 entries of 56 bytes, with what Python adds."""
_LISTS: Final = 1 << 9
"""Nodes whose children stay decoded: an ingest asks for each leaf three times, and for what is
above it each time."""
_LEAVES: Final = 1 << 11
"""Leaves that are found without a walk from the root; they weigh as much as cached nodes."""

_ZEROS: Final = memoryview(bytes(MAX_BLOCK_BYTES))


class Reader:
    """Reads disks of one repository; safe to use from several threads.

    Caches are keyed by digest, so what is cached is right whatever happens to the catalog.
    Numbers and places are hints: what they lead to is verified, and looked up anew once.
    """

    def __init__(self, repository: Repository, cache_bytes: int = CACHE_BYTES) -> None:
        self._packs = repository.packs
        self._catalog: Catalog = repository.catalog
        self._lock = threading.Lock()
        self._chunks: Cache[Digest, bytes] = Cache(cache_bytes, len)
        self._start_over()

    def _start_over(self) -> None:
        self._lists: dict[Digest, Sequence[Ref | None]] = {}
        self._leaves: dict[tuple[Digest, int], Node | None] = {}
        self._nodes: Cache[Digest, Node] = Cache(_NODE_CACHE_BYTES, lambda _: _NODE_BYTES)
        self._roots: dict[Digest, Ref] = {}
        self._pack_ids: dict[int, PackId] = {}
        with self._catalog.view() as view:
            self._generation = view.generation

    @property
    def cached_bytes(self) -> int:
        """Of decoded chunks."""
        return self._chunks.bytes_held

    def refresh(self) -> bool:
        """Look whether numbers still mean what they meant; False if they do.

        Once a second is often enough: a number that lies is found out, and costs a second look.
        """
        with self._lock:
            self._packs.close_removed()
            if self._catalog.is_replaced():
                if not self._catalog.reopen():
                    return False
            else:
                with self._catalog.view() as view:
                    if view.generation == self._generation:
                        return False
            self._start_over()
            return True

    def disk(self, record: DiskRecord) -> Disk:
        """The image that *record* names."""
        return Disk(self, record)

    def root(self, record: DiskRecord) -> Ref | None:
        """The root of a block map; ChunkMissing if the repository does not have it."""
        return self._find_root(record.root, Shape(record.size, record.block_size))

    def tree(self, root: Digest, shape: Shape) -> Tree[Ref]:
        """The block map of that root; ChunkMissing if the repository does not have it."""
        return Tree(self._find_root(root, shape), shape.blocks, self.children)

    def _find_root(self, root: Digest, shape: Shape) -> Ref | None:
        if root == NULL_DIGEST:
            return None
        roots = self._roots
        found = roots.get(root)
        if found is None:
            with self._catalog.view() as view:
                number = view.find(Kind.NODE, shape.height, root)
            if number is None:
                raise ChunkMissing(f"block map {root.hex()} is missing")
            found = roots[root] = Ref(number, root)
        return found

    def node(self, child: Ref, level: int) -> Node:
        """A node of a block map; DataCorrupt if it is not what its digest says."""

        def load() -> Node:
            with self._catalog.view() as view:
                return view.node(child.number, level, child.digest)

        return self._nodes.load(child.digest, load)

    def children(self, child: Ref, level: int) -> Sequence[Ref | None]:
        """The 64 children of a node: what a Tree loads."""
        lists = self._lists
        found = lists.get(child.digest)
        if found is None:
            node = self.node(child, level)
            found = tuple(
                None if digest is None else Ref(number, digest)
                for number, digest in zip(node.children, node.digests(), strict=True)
            )
            if len(lists) >= _LISTS:
                lists.clear()
            lists[child.digest] = found
        return found

    def leaf(self, record: DiskRecord, index: int) -> Node | None:
        """Leaf *index* of a block map; None if it is zeros."""
        key = record.root, index
        try:
            return self._leaves[key]
        except KeyError:
            pass
        leaves = self._leaves
        child = self.root(record)
        for level in range(Shape(record.size, record.block_size).height, 1, -1):
            if child is None:
                break
            node = self.node(child, level)
            slot = index // FANOUT ** (level - 2) % FANOUT
            entry = node.entries[slot]
            child = None if entry is None else Ref(node.children[slot], location_digest(entry))
        found = None if child is None else self.node(child, 1)
        if len(leaves) >= _LEAVES:
            leaves.clear()
        leaves[key] = found
        return found

    def chunk_into(
        self, target: memoryview, place: Location, offset: int, *, may_wait: bool = True
    ) -> None:
        """Fill *target* with bytes of a chunk, verified by its digest or the CRCs of its pieces.

        WouldWait if it must not wait for the storage and has to.
        """
        frame = place.frame
        if frame.codec is Codec.STORED:
            # The kernel has it as it is: it is not kept here too.
            pack = self._packs.open(self._pack_id(place.pack))
            if len(target) == frame.stored:
                pack.load_into(frame, target, may_wait=may_wait)
                return
            pieces = pack.load_pieces(frame, offset, len(target), may_wait=may_wait)
            if pieces is not None:
                target[:] = pieces
                return
        content = self._chunks.get(frame.digest)
        if content is None:
            content = self._load_chunk(place, may_wait)
        target[:] = memoryview(content)[offset : offset + len(target)]

    def _load_chunk(self, place: Location, may_wait: bool) -> bytes:
        frame = place.frame
        pack = self._packs.open(self._pack_id(place.pack))
        if may_wait:
            return self._chunks.load(frame.digest, lambda: pack.load(frame))
        content = pack.load(frame, may_wait=False)
        self._chunks.keep(frame.digest, content)
        return content

    def look_again(self) -> None:
        """Forget where things are, after something was not where it should be."""
        if not self.refresh():
            with self._lock:
                self._start_over()

    def _pack_id(self, number: int) -> PackId:
        ids = self._pack_ids
        found = ids.get(number)
        if found is None:
            with self._catalog.view() as view:
                record = view.pack(number)
            if record is None:
                raise ChunkMissing(f"pack number {number} is not known")
            found = ids[number] = record.id
        return found


class Disk:
    """One disk at one restore point. Reads are stateless."""

    def __init__(self, reader: Reader, record: DiskRecord) -> None:
        self._reader = reader
        self.record = record
        self.size = record.size
        self._block = record.block_size
        self._shape = Shape(record.size, record.block_size)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """The bytes [offset, offset + length), fewer only where the disk ends.

        DataCorrupt or ChunkMissing, which name chunk and extent, if one byte cannot be proven.
        """
        return self._assemble(offset, length, self._read_block)

    def read_at_once(self, offset: int, length: int) -> bytes | memoryview | None:
        """What read() returns; None where it would wait for the storage, or would fail."""
        try:
            return self._assemble(offset, length, self._cached_block)
        except (WouldWait, ChunkMissing, DataCorrupt):
            return None

    def _assemble(
        self, offset: int, length: int, read_block: Callable[[int, int, memoryview], None]
    ) -> bytes | memoryview:
        """Bytes that *read_block* was told to put in their place; where it puts none are zeros."""
        end = min(offset + length, self.size)
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes at {offset}")
        if offset >= end:
            return b""
        data = memoryview(bytearray(end - offset))
        at = offset
        while at < end:
            block, within = divmod(at, self._block)
            count = min(self._block - within, end - at)
            read_block(block, within, data[at - offset : at - offset + count])
            at += count
        return data

    def _cached_block(self, block: int, offset: int, target: memoryview) -> None:
        place = self._place(block)
        if place is not None:
            self._reader.chunk_into(target, place, offset, may_wait=False)

    def _read_block(self, block: int, offset: int, target: memoryview) -> None:
        try:
            self._load_block(block, offset, target)
        except (ChunkMissing, DataCorrupt):
            self._reader.look_again()
        else:
            return
        try:
            target[:] = _ZEROS[: len(target)]
            self._load_block(block, offset, target)
        except (ChunkMissing, DataCorrupt) as exc:
            start = block * self._block
            raise type(exc)(f"bytes {start} to {start + self._block}: {exc}") from exc

    def _load_block(self, block: int, offset: int, target: memoryview) -> None:
        place = self._place(block)
        if place is None:
            return
        try:
            self._reader.chunk_into(target, place, offset)
        except (ChunkMissing, DataCorrupt) as exc:
            raise type(exc)(f"chunk {place.frame.digest.hex()}: {exc}") from exc

    def _place(self, block: int) -> Location | None:
        """Where a block's chunk is; None if the block is zeros."""
        leaf = self._reader.leaf(self.record, block // FANOUT)
        place = None if leaf is None else leaf.place(block % FANOUT)
        if place is not None and place.frame.plain != self._block:
            raise DataCorrupt(f"chunk {place.frame.digest.hex()} is of another block size")
        return place

    def tree(self) -> Tree[Ref]:
        """The block map."""
        return self._reader.tree(self.record.root, self._shape)

    def data(self) -> Iterator[Extent]:
        """Extents that hold data, ascending; the rest of the disk is zeros."""
        runs = (Extent(f * self._block, n * self._block) for f, n in self.tree().data_runs())
        return clip(runs, 0, self.size)


def differing(left: Disk, right: Disk) -> Iterator[Extent]:
    """Extents in which two images may differ, whole blocks, ascending.

    ValueError if their block sizes differ. Bytes beyond the end of the shorter one differ.
    """
    if left.record.block_size != right.record.block_size:
        raise ValueError("the disks have different block sizes")
    size, unit = max(left.size, right.size), left.record.block_size
    blocks = (Extent(block * unit, unit) for block in diff(left.tree(), right.tree()))
    ends = between(min(left.size, right.size), size)
    return clip(coalesce([*blocks, *ends]), 0, size)
