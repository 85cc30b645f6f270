"""Copies the objects of a disk that another repository lacks.

The tree of a disk is walked from its root. A node that the target has, it has with its whole
subtree (docs/architecture.md, "Catching up"), so a walk visits what differs and nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Self

from cbtfs.core.blockmap import FANOUT, Shape
from cbtfs.core.frame import Codec, Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Reader
from cbtfs.store.codec import Encoded, decompressed
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

Progress = Callable[[int], None]
"""Callback with the number of disk bytes that are known to be in the target now."""

_THREADS: Final = 4
"""Leaves that are loaded and verified at once; each takes up to 64 chunks of memory."""


_TRANSLATED: Final = 1 << 20
"""Nodes whose name in the target is kept, if the repositories have different keys of digests."""


class _Leaf(NamedTuple):
    """The chunks of a leaf that the target lacks, loaded and verified."""

    ref: Ref
    digests: Sequence[Digest | None]
    """Names of the chunks in the target."""
    chunks: Sequence[Encoded]


class ObjectCopier:
    """Copies objects between repositories.

    Chunks are verified by their digest and keep their encoding. If the repositories have different
    keys of digests, every object gets a new digest: all chunks are read, and only subtrees that
    this copier has put before are skipped.
    """

    def __init__(self, source: Repository, objects: ObjectWriter) -> None:
        self._catalog = source.catalog
        self._packs = source.packs
        self._reader = Reader(source)
        self._objects = objects
        self._is_related = source.digester.key == objects.digester.key
        self._translated: dict[tuple[int, Digest], Ref] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "copy")
        self.chunks = 0
        """Chunks that were moved."""
        self.stored_bytes = 0
        """Bytes of the frames that were written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def refresh(self) -> None:
        """Follow changes of the source, which other programs may write to."""
        self._reader.refresh()

    def copy(self, disk: DiskRecord, progress: Progress) -> Digest:
        """Put all objects of *disk*, and return its root in the target.

        The objects are durable after the writer's next flush.

        Raises:
            ChunkMissing: the source lacks an object.
            DataCorrupt: an object of the source does not match its digest.
            StoreFailed: the target refused a write.
        """
        root = self._reader.root(disk)
        if root is None:
            return NULL_DIGEST
        walk = _Walk(disk, progress)
        return self._put_tree(root, Shape(disk.size, disk.block_size).height, 0, walk).digest

    def _has(self, child: Ref, level: int) -> Ref | None:
        """Return the node in the target, if its subtree needs no visit."""
        if self._objects.has_bad:
            return None  # A corrupt object below may be replaced by the source's.
        if not self._is_related:
            return self._translated.get((level, child.digest))
        number = self._objects.find(Kind.NODE, level, child.digest)
        return None if number is None else Ref(number, child.digest)

    def _put_tree(self, child: Ref, level: int, index: int, walk: "_Walk") -> Ref:
        """Put the node *index* of *level* with its subtree; return it in the target."""
        known = self._has(child, level)
        if known is not None:
            walk.passed(level, index)
            return known
        if level == 1:
            leaf = self._load_leaf(child, walk.block_size)
            return self._put_leaf(leaf, index, walk)
        children = self._reader.children(child, level)
        first = index * FANOUT
        if level == 2:
            return self._put_node(child, level, self._put_leaves(children, first, walk))
        refs = [
            None if ref is None else self._put_tree(ref, level - 1, first + slot, walk)
            for slot, ref in enumerate(children)
        ]
        return self._put_node(child, level, refs)

    def _put_leaves(
        self, children: Sequence[Ref | None], first: int, walk: "_Walk"
    ) -> list[Ref | None]:
        """Put up to 64 leaves. While one is put, the next ones are loaded."""
        refs: list[Ref | None] = [
            None if child is None else self._has(child, 1) for child in children
        ]
        wanted: list[tuple[int, Ref]] = []
        for slot, child in enumerate(children):
            if child is not None and refs[slot] is None:
                wanted.append((slot, child))
            elif child is not None:
                walk.passed(1, first + slot)
        for slot, leaf in self._loaded(wanted, walk.block_size):
            refs[slot] = self._put_leaf(leaf, first + slot, walk)
        return refs

    def _loaded(
        self, wanted: Sequence[tuple[int, Ref]], block_size: int
    ) -> Iterator[tuple[int, _Leaf]]:
        pending: deque[tuple[int, Future[_Leaf]]] = deque()
        for slot, child in wanted:
            pending.append((slot, self._pool.submit(self._load_leaf, child, block_size)))
            if len(pending) > _THREADS:
                done, leaf = pending.popleft()
                yield done, leaf.result()
        while pending:
            done, leaf = pending.popleft()
            yield done, leaf.result()

    def _load_leaf(self, child: Ref, block_size: int) -> _Leaf:
        digests = self._reader.node(child, 1).digests()
        wanted = dict.fromkeys(digest for digest in digests if digest is not None)
        known = self._objects.find_all(Kind.CHUNK, 0, wanted)
        slots = {digest: slot for slot, digest in enumerate(digests)}
        chunks = []
        for digest in wanted:
            if digest not in known or not self._is_related:
                chunk = self._load_chunk(child, slots[digest])
                if chunk.plain != block_size:
                    raise DataCorrupt(f"chunk {digest.hex()} has another block size")
                chunks.append(chunk)
        if self._is_related:
            return _Leaf(child, digests, chunks)
        renamed = {chunk.digest: self._renamed(chunk) for chunk in chunks}
        names = [None if digest is None else renamed[digest].digest for digest in digests]
        return _Leaf(child, names, list(renamed.values()))

    def _renamed(self, chunk: Encoded) -> Encoded:
        """Return a chunk with its digest in the target."""
        payload = chunk.payload
        if chunk.codec is not Codec.STORED:
            payload = decompressed(payload, chunk.plain)
        return chunk._replace(digest=self._objects.digester.chunk(payload))

    def _load_chunk(self, leaf: Ref, slot: int) -> Encoded:
        """Load a chunk; look it up once more if a prune may have moved it."""
        try:
            return self._load_located(leaf, slot)
        except (ChunkMissing, DataCorrupt):
            self._reader.drop_locations()
            return self._load_located(leaf, slot)

    def _load_located(self, leaf: Ref, slot: int) -> Encoded:
        location = self._reader.node(leaf, 1).location(slot)
        if location is None:
            raise ChunkMissing(f"leaf {leaf.digest.hex()} has no chunk {slot}")
        with self._catalog.view() as view:
            pack = view.pack(location.pack)
        try:
            if pack is None:
                raise ChunkMissing(f"pack number {location.pack} is not in the catalog")
            return self._packs.open(pack.id).load_encoded(location.frame)
        except (ChunkMissing, DataCorrupt) as exc:
            raise type(exc)(f"chunk {location.frame.digest.hex()}: {exc}") from exc

    def _put_leaf(self, leaf: _Leaf, index: int, walk: "_Walk") -> Ref:
        for put in self._objects.put_chunks(leaf.chunks):
            self.chunks += put.stored > 0
            self.stored_bytes += put.stored
        wanted = [digest for digest in leaf.digests if digest is not None]
        numbers = self._objects.find_all(Kind.CHUNK, 0, wanted)
        try:
            refs = [
                None if digest is None else Ref(numbers[digest], digest) for digest in leaf.digests
            ]
        except KeyError as exc:
            raise ChunkMissing("the target lost a chunk while it was copied") from exc
        ref = self._put_node(leaf.ref, 1, refs)
        walk.passed(1, index)
        return ref

    def _put_node(self, child: Ref, level: int, refs: Sequence[Ref | None]) -> Ref:
        put = self._objects.put_node(level, refs)
        self.stored_bytes += put.stored
        if not self._is_related:
            if len(self._translated) >= _TRANSLATED:
                self._translated.clear()
            self._translated[level, child.digest] = put.ref
        elif put.ref.digest != child.digest:
            raise DataCorrupt(f"node {child.digest.hex()} does not match its digest")
        return put.ref


class _Walk:
    """The walk through one disk: reports each part of the disk once."""

    def __init__(self, disk: DiskRecord, progress: Progress) -> None:
        self.block_size = disk.block_size
        self._size = disk.size
        self._progress = progress

    def passed(self, level: int, index: int) -> None:
        """Report node *index* of *level* as done."""
        span = FANOUT**level * self.block_size
        start = index * span
        self._progress(min(span, max(self._size - start, 0)))


def is_same(left: DiskRecord, right: DiskRecord) -> bool:
    """Return whether two disks have equal content, by their roots."""
    return (left.size, left.root) == (right.size, right.root) and (
        left.root == NULL_DIGEST or left.block_size == right.block_size
    )
