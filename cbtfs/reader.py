"""Read verified bytes at an offset of one disk at one restore point."""

from __future__ import annotations

import resource
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.blockmap import FANOUT, Shape, Tree, runs_of
from cbtfs.core.extent import Extent, clip
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, PackId, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.native import Chunks, Leaf, has_deleted_pack_files, open_pack_files
from cbtfs.store.backend.tier import EXTENT
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.view import Node
from cbtfs.store.look_ahead import LookAhead
from cbtfs.store.repository import Repository

CACHE_BYTES: Final = 64 << 20
"""Size of the decoded chunks that one process caches, beside the kernel's page cache."""
_NODE_CACHE_BYTES: Final = 32 << 20
_NODE_BYTES: Final = 8 << 10
"""Size of a cached node: 64 entries of 56 bytes, and Python's overhead."""
_CHILD_LISTS: Final = 1 << 9
"""Nodes whose children stay decoded: an ingest visits each leaf three times, and its ancestors
each time."""
_LEAVES: Final = 1 << 11
"""Leaves that are found without a walk from the root; each takes 5 KiB, or 10 KiB if its chunks
are raw."""
_PARENTS: Final = 1 << 8
"""Nodes of level 2 that are found without a walk from the root; each takes 8 KiB."""
_MAX_PACK_FILES: Final = 1 << 12
"""Packs that leaves may keep open; half of the process's limit of open files if that is less."""


class Reader:
    """Reads disks of one repository; safe to use from several threads.

    Caches are keyed by digest, so cached objects stay valid if the catalog changes. Object numbers
    and locations are hints: the object is verified, and looked up a second time if it is not found.
    """

    def __init__(
        self,
        repository: Repository,
        cache_bytes: int = CACHE_BYTES,
        *,
        is_strict: bool = True,
        on_leaves_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        """*is_strict*: verify whole raw chunks by their digest, not by their CRCs.

        *on_leaves_dropped* is called when users of leaf() should drop their leaves.
        """
        self._packs = repository.packs
        self._catalog: Catalog = repository.catalog
        self._lock = threading.Lock()
        self._on_leaves_dropped = on_leaves_dropped
        self.digester = repository.digester
        self.chunks = Chunks(cache_bytes, self.digester.check, is_strict, self.digester.key)
        self._max_pack_files = min(
            _MAX_PACK_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        )
        self._reset()

    def _reset(self) -> None:
        self._child_lists: dict[Digest, Sequence[Ref | None]] = {}
        self._last_nodes: dict[int, Node] = {}
        self._last_lists: dict[int, tuple[Node, Sequence[Ref | None]]] = {}
        self._nodes: Cache[Digest, Node] = Cache(_NODE_CACHE_BYTES, lambda _: _NODE_BYTES)
        self._roots: dict[Digest, Ref] = {}
        self._parent_by_position: dict[tuple[Digest, int], Node] = {}
        self._pack_ids: dict[int, PackId] = {}
        self._drop_leaves()
        with self._catalog.view() as view:
            self._generation = view.generation

    def _drop_leaves(self) -> None:
        self._leaf_by_position: dict[tuple[Digest, int], Leaf | None] = {}
        self._leaves: Cache[Digest, Leaf] = Cache(_LEAVES, lambda _: 1)
        self._on_leaves_dropped()

    @property
    def can_read_content(self) -> bool:
        """Whether the key of this process decrypts chunks."""
        return self._packs.can_read_content

    @property
    def cached_bytes(self) -> int:
        """Size of the decoded chunks in the cache."""
        return self.chunks.cached_bytes

    def refresh(self) -> bool:
        """Follow changes of the catalog. Return False if its object numbers are unchanged.

        Once a second is enough: an outdated number is detected and costs a second look-up.
        """
        with self._lock:
            self._packs.close_removed()
            if has_deleted_pack_files():
                self._drop_leaves()  # they keep the files open, and so their space in use
            if self._catalog.is_replaced():
                if not self._catalog.reopen():
                    return False
            else:
                with self._catalog.view() as view:
                    if view.generation == self._generation:
                        return False
            self._reset()
            return True

    def disk(self, record: DiskRecord) -> Disk:
        """Return the disk of *record*."""
        return Disk(self, record)

    def root(self, record: DiskRecord) -> Ref | None:
        """Return the root of a disk's block map, or None if all is zeros.

        Raises:
            ChunkMissing: the repository does not contain it.
        """
        return self._find_root(record.root, Shape(record.size, record.block_size))

    def tree(self, root: Digest, shape: Shape) -> Tree[Ref]:
        """Return the block map with that root.

        Raises:
            ChunkMissing: the repository does not contain it.
        """
        return Tree(self._find_root(root, shape), shape.blocks, self.children)

    def _find_root(self, root: Digest, shape: Shape) -> Ref | None:
        if root == NULL_DIGEST:
            return None
        roots = self._roots
        reference = roots.get(root)
        if reference is None:
            with self._catalog.view() as view:
                number = view.find(Kind.NODE, shape.height, root)
            if number is None:
                raise ChunkMissing(f"block map {root.hex()} is missing")
            reference = roots[root] = Ref(number, root)
        return reference

    def node(self, child: Ref, level: int) -> Node:
        """Return a node of a block map.

        Raises:
            DataCorrupt: it does not match its digest.
        """
        return self._nodes.load(child.digest, lambda: self._load_node(child, level))

    def _load_node(self, child: Ref, level: int) -> Node:
        last = self._last_nodes  # by level: walks of several versions meet similar nodes in turn
        with self._catalog.view() as view:
            node = view.node(child.number, level, child.digest, last.get(level))
        last[level] = node
        return node

    def children(self, child: Ref, level: int) -> Sequence[Ref | None]:
        """Return the 64 children of a node. This is the loader of a Tree."""
        lists = self._child_lists
        children = lists.get(child.digest)
        if children is None:
            node = self.node(child, level)
            children = _references(node, self._last_lists.get(level))
            self._last_lists[level] = node, children
            if len(lists) >= _CHILD_LISTS:
                lists.clear()
            lists[child.digest] = children
        return children

    def leaf(self, record: DiskRecord, index: int) -> Leaf | None:
        """Return leaf *index* of a block map, or None if it is all zeros."""
        leaves = self._leaf_by_position
        key = record.root, index
        try:
            return leaves[key]
        except KeyError:
            pass
        child = self._leaf_ref(record, index)
        leaf = None if child is None else self.leaf_of(child)
        if len(leaves) >= _LEAVES:
            leaves.clear()
        leaves[key] = leaf
        return leaf

    def _leaf_ref(self, record: DiskRecord, index: int) -> Ref | None:
        if Shape(record.size, record.block_size).height == 1:
            return self.root(record)
        above, slot = divmod(index, FANOUT)
        parents, key = self._parent_by_position, (record.root, above)
        parent = parents.get(key)
        if parent is None:
            child = self._ref(record, 2, above)
            if child is None:
                return None
            if len(parents) >= _PARENTS:
                parents.clear()
            parent = parents[key] = self.node(child, 2)
        return parent.child(slot)

    def _ref(self, record: DiskRecord, level: int, index: int) -> Ref | None:
        """Return the reference of node *index* of *level*, or None if it is all zeros."""
        child = self.root(record)
        for above in range(Shape(record.size, record.block_size).height, level, -1):
            if child is None:
                break
            slot = index // FANOUT ** (above - level - 1) % FANOUT
            child = self.node(child, above).child(slot)
        return child

    def leaf_node(self, record: DiskRecord, index: int) -> Node | None:
        """Return node *index* of level 1 of a block map, or None if it is all zeros."""
        child = self._leaf_ref(record, index)
        return None if child is None else self.node(child, 1)

    def leaf_of(self, child: Ref) -> Leaf:
        """Return the leaf with that reference."""

        def make() -> Leaf:
            node = self._nodes.get(child.digest) or self._load_node(child, 1)
            return Leaf(node.entries)

        return self._leaves.load(child.digest, make)

    def attach(self, leaf: Leaf, slot: int) -> bool:
        """Attach the pack of a chunk, and fetch the chunk. Return False if this was done before.

        Raises:
            ChunkMissing: the pack does not exist.
            DataCorrupt: the pack cannot be opened or read.
            StoreUnreachable: its server does not answer.
        """
        wanted = leaf.wanted_bytes(slot)
        if wanted is None:
            return False
        number, offset, length = wanted
        pack = self._packs.open(self._pack_id(number))
        if leaf.wanted_pack(slot) is not None:
            if open_pack_files() > self._max_pack_files:
                self._drop_leaves()
            leaf.attach(number, pack.file)
        if self._packs.is_remote and leaf.wanted_bytes(slot) is not None:
            pack.fetch(offset, length)
            # Another file is attached, or there is no space.
            if leaf.wanted_bytes(slot) is not None:
                raise ChunkMissing(f"pack {self._pack_id(number)} has no local copy")
        return True

    def fetch_ahead(self, number: int, offset: int, length: int) -> None:
        """Begin to fetch bytes of a pack, which is named by its number in the catalog."""
        self._packs.fetch_ahead(self._pack_id(number), offset, length)

    @property
    def is_remote(self) -> bool:
        """Whether packs are on a server."""
        return self._packs.is_remote

    def attach_all(self, leaf: Leaf) -> None:
        """Attach the packs of all chunks of a leaf. Raises what attach() raises."""
        if self._packs.is_remote:
            wanted = filter(None, map(leaf.wanted_bytes, range(FANOUT)))
            for number, extent in dict.fromkeys((pack, at // EXTENT) for pack, at, _ in wanted):
                self.fetch_ahead(number, extent * EXTENT, 1)
        for slot in range(FANOUT):
            self.attach(leaf, slot)

    def load_chunk(self, record: DiskRecord, block: int) -> bytes:
        """Return the bytes of a whole block from its current location, verified by their digest.

        Called when Chunks cannot read the block, to read it or to find the reason.

        Raises:
            ChunkMissing: the chunk or its pack does not exist.
            DataCorrupt: the chunk does not match its digest.
        """
        child = self._leaf_ref(record, block // FANOUT)
        location = None if child is None else self.node(child, 1).location(block % FANOUT)
        if location is None:
            return bytes(record.block_size)
        frame = location.frame
        if frame.plain != record.block_size:
            raise DataCorrupt(f"chunk {frame.digest.hex()} has another block size")
        try:
            return self._packs.open(self._pack_id(location.pack)).load(frame)
        except (ChunkMissing, DataCorrupt) as exc:
            raise type(exc)(f"chunk {frame.digest.hex()}: {exc}") from exc

    def drop_locations(self) -> None:
        """Drop cached locations after an object was not found at its location."""
        if not self.refresh():
            with self._lock:
                self._reset()

    def _pack_id(self, number: int) -> PackId:
        ids = self._pack_ids
        pack_id = ids.get(number)
        if pack_id is None:
            with self._catalog.view() as view:
                record = view.pack(number)
            if record is None:
                raise ChunkMissing(f"pack number {number} is not in the catalog")
            pack_id = ids[number] = record.id
        return pack_id


def _references(node: Node, like: tuple[Node, Sequence[Ref | None]] | None) -> Sequence[Ref | None]:
    """Return references to the 64 children of *node*; those of equal entries are taken from *like*.

    Walks of several versions of a disk then compare objects that are identical.
    """
    if like is None:
        return [node.child(slot) for slot in range(FANOUT)]
    other, references = like
    return [
        reference if entry is shared else node.child(slot)
        for slot, (entry, shared, reference) in enumerate(
            zip(node.entries, other.entries, references, strict=True)
        )
    ]


class Disk:
    """One disk at one restore point. Reads are stateless."""

    def __init__(self, reader: Reader, record: DiskRecord) -> None:
        self.reader = reader
        self.record = record
        self.size = record.size
        self._block = record.block_size
        self._leaf_bytes = record.block_size * FANOUT
        self._shape = Shape(record.size, record.block_size)
        self._ahead = (
            LookAhead(self._leaf, self._shape.leaves, reader.fetch_ahead)
            if reader.is_remote
            else None
        )

    def _leaf(self, index: int) -> Leaf | None:
        return self.reader.leaf(self.record, index)

    def _attach(self, index: int, leaf: Leaf, slot: int) -> bool:
        """Attach as the reader does, and look ahead if the chunk is not here."""
        if self._ahead is not None and leaf.wanted_bytes(slot) is not None:
            self._ahead.missed(index, slot)
        return self.reader.attach(leaf, slot)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length), fewer only at the end of the disk.

        Raises:
            ChunkMissing: a chunk does not exist; the message names chunk and extent.
            DataCorrupt: a byte cannot be verified; the message names chunk and extent.
            ValueError: *offset* or *length* is negative.
        """
        end = min(offset + length, self.size)
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes at {offset}")
        if offset >= end:
            return b""
        data = memoryview(bytearray(end - offset))
        self.read_into(offset, data)
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill *target* from *offset*; the range is within the disk. Raises what read() raises."""
        done = 0
        while done < len(target):
            done += self._read_some(offset + done, target[done:])

    def _read_some(self, offset: int, target: memoryview) -> int:
        """Read at least one byte from *offset*. Return the number of bytes."""
        try:
            done = self._fill(offset, target)
        except (ChunkMissing, DataCorrupt):
            done = 0
        if done:
            return done
        self.reader.drop_locations()
        block, within = divmod(offset, self._block)
        part = target[: self._block - within]
        try:
            if self._fill(offset, part) < len(part):
                part[:] = self.reader.load_chunk(self.record, block)[within : within + len(part)]
        except (ChunkMissing, DataCorrupt) as exc:
            start = block * self._block
            raise type(exc)(f"bytes {start} to {start + self._block}: {exc}") from exc
        return len(part)

    def _fill(self, offset: int, target: memoryview) -> int:
        """Read from one leaf. Return the number of bytes, 0 if its first chunk is unreadable."""
        index, within = divmod(offset, self._leaf_bytes)
        part = target[: self._leaf_bytes - within]
        leaf = self.reader.leaf(self.record, index)
        if leaf is None:
            part[:] = bytes(len(part))
            return len(part)
        done = 0
        while True:
            position = within + done
            done += self.reader.chunks.fill(leaf, self._block, position, part[done:])
            slot = (within + done) // self._block
            if done == len(part) or not self._attach(index, leaf, slot):
                return done

    def leaves(self, offset: int, length: int) -> Iterator[tuple[int, Leaf | None]]:
        """Yield the leaves of the bytes [offset, offset + length), with their packs attached.

        Raises:
            ChunkMissing: a leaf or a pack does not exist.
            DataCorrupt: a leaf or a pack cannot be read.
        """
        end = min(offset + length, self.size)
        while offset < end:
            index, within = divmod(offset, self._leaf_bytes)
            until = min(end, offset - within + self._leaf_bytes)
            leaf = self.reader.leaf(self.record, index)
            if leaf is not None:
                last = (within + until - offset - 1) // self._block
                for slot in range(within // self._block, last + 1):
                    self._attach(index, leaf, slot)
            yield index, leaf
            offset = until

    def data_masks(self, offset: int) -> tuple[int, array[int], int]:
        """Return which blocks from the leaf at *offset* on hold data: (first leaf, masks, end).

        Bit n of a mask is set if block n of its leaf holds data. Leaves after those with a mask are
        zeros up to leaf *end*. The leaves with a mask belong to one group of 64, so the work is
        bounded; at least one leaf is covered. Intact leaves before a damaged one are returned.

        Raises:
            ChunkMissing: a node above the first leaf, or the leaf, does not exist.
            DataCorrupt: such a node does not match its digest.
        """
        first = offset // self._leaf_bytes
        try:
            leaf = self.reader.leaf(self.record, first)
        except (ChunkMissing, DataCorrupt):
            self.reader.drop_locations()
            leaf = self.reader.leaf(self.record, first)
        masks, end = array("Q", [0 if leaf is None else leaf.data_mask]), first + 1
        group_end = min(end + -end % FANOUT, self._shape.leaves)
        try:
            for index, child in self.tree().leaves(end):
                masks.extend([0] * (min(index, group_end) - end))
                end = index
                if index >= group_end:
                    return first, masks, end
                masks.append(self.reader.leaf_of(child).data_mask)
                end = index + 1
        except (ChunkMissing, DataCorrupt):
            return first, masks, end  # a later call, which begins at this leaf, reports the error
        return first, masks, self._shape.leaves

    def tree(self) -> Tree[Ref]:
        """Return the block map."""
        return self.reader.tree(self.record.root, self._shape)

    def data(self) -> Iterator[Extent]:
        """Yield the extents with data, ascending; the rest of the disk is zeros."""
        runs = (Extent(f * self._block, n * self._block) for f, n in self.tree().data_runs())
        return clip(runs, 0, self.size)

    def data_in(self, area: Extent) -> Iterator[Extent]:
        """Yield the parts of *area* with data, ascending. Only their nodes are loaded."""
        blocks = self.tree().data_blocks(area.start // self._block)
        near = takewhile(lambda block: block * self._block < area.end, blocks)
        runs = (Extent(f * self._block, n * self._block) for f, n in runs_of(near))
        return clip(runs, area.start, min(area.end, self.size))
