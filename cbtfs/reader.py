"""Bytes at an offset of one disk at one restore point, verified before they are returned."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.blockmap import FANOUT, Shape, Tree, diff
from cbtfs.core.extent import Extent, between, clip, coalesce
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, PackId, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.native import Chunks, Leaf, has_deleted_pack_files, open_pack_files
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import location_digest
from cbtfs.store.catalog.view import Node
from cbtfs.store.digest import prefixed_digest
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
"""Leaves that are found without a walk from the root; one weighs 5 KiB, twice that where its
chunks are raw."""
_MOST_FILES: Final = 1 << 12
"""Packs that leaves may hold open, where the process may have twice as many files."""


class Reader:
    """Reads disks of one repository; safe to use from several threads.

    Caches are keyed by digest, so what is cached is right whatever happens to the catalog.
    Numbers and places are hints: what they lead to is verified, and looked up anew once.
    """

    def __init__(
        self,
        repository: Repository,
        cache_bytes: int = CACHE_BYTES,
        *,
        is_strict: bool = True,
        forgotten: Callable[[], None] = lambda: None,
    ) -> None:
        """*is_strict*: raw chunks that are read whole are verified by their digest, not by CRCs.

        *forgotten* is told when leaves that were handed out should be asked for anew.
        """
        self._packs = repository.packs
        self._catalog: Catalog = repository.catalog
        self._lock = threading.Lock()
        self._forgotten = forgotten
        self.chunks = Chunks(cache_bytes, prefixed_digest, is_strict)
        self._most_files = min(_MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._start_over()

    def _start_over(self) -> None:
        self._lists: dict[Digest, Sequence[Ref | None]] = {}
        self._nodes: Cache[Digest, Node] = Cache(_NODE_CACHE_BYTES, lambda _: _NODE_BYTES)
        self._roots: dict[Digest, Ref] = {}
        self._pack_ids: dict[int, PackId] = {}
        self._forget_leaves()
        with self._catalog.view() as view:
            self._generation = view.generation

    def _forget_leaves(self) -> None:
        self._places: dict[tuple[Digest, int], Leaf | None] = {}
        self._leaves: Cache[Digest, Leaf] = Cache(_LEAVES, lambda _: 1)
        self._forgotten()

    @property
    def cached_bytes(self) -> int:
        """Of decoded chunks."""
        return self.chunks.cached_bytes

    def refresh(self) -> bool:
        """Look whether numbers still mean what they meant; False if they do.

        Once a second is often enough: a number that lies is found out, and costs a second look.
        """
        with self._lock:
            self._packs.close_removed()
            if has_deleted_pack_files():
                self._forget_leaves()  # they hold the files, whose room is wanted
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
        return self._nodes.load(child.digest, lambda: self._load_node(child, level))

    def _load_node(self, child: Ref, level: int) -> Node:
        with self._catalog.view() as view:
            return view.node(child.number, level, child.digest)

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

    def leaf(self, record: DiskRecord, index: int) -> Leaf | None:
        """Leaf *index* of a block map; None if it is zeros."""
        places = self._places
        key = record.root, index
        try:
            return places[key]
        except KeyError:
            pass
        child = self._leaf_ref(record, index)
        found = (
            None if child is None else self._leaves.load(child.digest, lambda: self._leaf(child))
        )
        if len(places) >= _LEAVES:
            places.clear()
        places[key] = found
        return found

    def _leaf_ref(self, record: DiskRecord, index: int) -> Ref | None:
        child = self.root(record)
        for level in range(Shape(record.size, record.block_size).height, 1, -1):
            if child is None:
                break
            node = self.node(child, level)
            slot = index // FANOUT ** (level - 2) % FANOUT
            entry = node.entries[slot]
            child = None if entry is None else Ref(node.children[slot], location_digest(entry))
        return child

    def _leaf(self, child: Ref) -> Leaf:
        return Leaf(self._load_node(child, 1).entries)

    def attach(self, leaf: Leaf, slot: int) -> bool:
        """Open the pack that a chunk is in; False if that is not what it takes to read it.

        ChunkMissing or DataCorrupt if the pack cannot be opened.
        """
        number = leaf.wanted_pack(slot)
        if number is None:
            return False
        if open_pack_files() > self._most_files:
            self._forget_leaves()
        leaf.attach(number, self._packs.open(self._pack_id(number)).file)
        return True

    def load_chunk(self, record: DiskRecord, block: int) -> bytes:
        """A whole block's bytes, verified by their digest, from where they are now.

        What to ask when Chunks has nothing: ChunkMissing or DataCorrupt tell why.
        """
        child = self._leaf_ref(record, block // FANOUT)
        place = None if child is None else self.node(child, 1).place(block % FANOUT)
        if place is None:
            return bytes(record.block_size)
        frame = place.frame
        if frame.plain != record.block_size:
            raise DataCorrupt(f"chunk {frame.digest.hex()} is of another block size")
        try:
            return self._packs.open(self._pack_id(place.pack)).load(frame)
        except (ChunkMissing, DataCorrupt) as exc:
            raise type(exc)(f"chunk {frame.digest.hex()}: {exc}") from exc

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
        self._leaf_bytes = record.block_size * FANOUT
        self._shape = Shape(record.size, record.block_size)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """The bytes [offset, offset + length), fewer only where the disk ends.

        DataCorrupt or ChunkMissing, which name chunk and extent, if one byte cannot be proven.
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
        """Fill *target* from *offset* on, all of it within the disk; raises what read() raises."""
        done = 0
        while done < len(target):
            done += self._read_some(offset + done, target[done:])

    def _read_some(self, offset: int, target: memoryview) -> int:
        """Some bytes from *offset* on, at least one; how many."""
        try:
            done = self._fill(offset, target)
        except (ChunkMissing, DataCorrupt):
            done = 0
        if done:
            return done
        self._reader.look_again()
        block, within = divmod(offset, self._block)
        part = target[: self._block - within]
        try:
            if self._fill(offset, part) < len(part):
                part[:] = self._reader.load_chunk(self.record, block)[within : within + len(part)]
        except (ChunkMissing, DataCorrupt) as exc:
            start = block * self._block
            raise type(exc)(f"bytes {start} to {start + self._block}: {exc}") from exc
        return len(part)

    def _fill(self, offset: int, target: memoryview) -> int:
        """What can be had of one leaf; how many bytes, 0 where its first chunk needs a look."""
        index, within = divmod(offset, self._leaf_bytes)
        part = target[: self._leaf_bytes - within]
        leaf = self._reader.leaf(self.record, index)
        if leaf is None:
            part[:] = bytes(len(part))
            return len(part)
        done = 0
        while True:
            at = within + done
            done += self._reader.chunks.fill(leaf, self._block, at, part[done:])
            slot = (within + done) // self._block
            if done == len(part) or not self._reader.attach(leaf, slot):
                return done

    def leaves(self, offset: int, length: int) -> Iterator[tuple[int, Leaf | None]]:
        """The leaves that the bytes [offset, offset + length) lie in, fit to be read from.

        ChunkMissing or DataCorrupt if one, or a pack with its chunks, cannot be had.
        """
        end = min(offset + length, self.size)
        while offset < end:
            index, within = divmod(offset, self._leaf_bytes)
            until = min(end, offset - within + self._leaf_bytes)
            leaf = self._reader.leaf(self.record, index)
            if leaf is not None:
                last = (within + until - offset - 1) // self._block
                for slot in range(within // self._block, last + 1):
                    self._reader.attach(leaf, slot)
            yield index, leaf
            offset = until

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
