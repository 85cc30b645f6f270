"""Writes new objects into packs and catalog."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, ObjectId, Ref
from cbtfs.errors import StoreFailed
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import NewObject, Update
from cbtfs.store.catalog.view import View
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.digest import node_content
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import PACK_BYTES, PackWriter
from cbtfs.store.packs import PackFolder
from cbtfs.store.shared.avoided import Avoided
from cbtfs.store.shared.numbering import ClosedPack, Numbering
from cbtfs.store.storing import storing

_CLOSING_AT_ONCE: Final = 2
"""Packs that may wait for the disk while the next one fills: bounds memory and lost work."""


class Put(NamedTuple):
    """Result of putting an object."""

    ref: Ref
    stored: int
    """Bytes of the new frame; 0 if the repository had the object."""


class _ClosingPack(NamedTuple):
    digests: list[Digest]
    done: "Future[None]"


@dataclass(slots=True)
class _OpenPack:
    """A pack that is being written, and its objects."""

    pack: PackWriter
    since: int
    """Number of the next pack in the catalog when this one was created, with shared writers."""
    objects: list[NewObject] = field(default_factory=list)
    moved: list[tuple[ObjectId, Frame]] = field(default_factory=list)


class ObjectWriter:
    """Puts objects that the repository does not have yet. Safe to use from several threads.

    Later puts find an object at once. The catalog gets it only when its pack is closed and
    flushed. Packs are closed and registered in the order of writing. After a failure no later pack
    is closed, and every call raises StoreFailed.
    """

    def __init__(
        self,
        catalog: Catalog,
        packs: PackFolder,
        level: int,
        *,
        pack_bytes: int = PACK_BYTES,
        corrupt: Iterable[Digest] = (),
        threads: int | None = None,
        avoided: Avoided | None = None,
        tag: str = "",
        is_fenced: Callable[[], bool] | None = None,
    ) -> None:
        """Create a writer with zstd *level*.

        *corrupt* are digests of objects in quarantine, which are rewritten under their ids.
        *threads* is the number of threads that encode objects; None: one for each core. With shared
        writers, *avoided* objects are stored again, names of packs end with *tag*, and no pack is
        entered once *is_fenced*.
        """
        self.level = level
        self.digester = packs.digester
        """Computes the digests of the objects."""
        self.threads = threads
        self._catalog = catalog
        self._packs = packs
        self._pack_bytes = pack_bytes
        self._encoder = Encoder(level)
        self._lock = threading.Lock()
        self._open: dict[Kind, _OpenPack] = {}
        """Packs that are being written: one for all kinds, or one for each in a bucket."""
        self._known: dict[Digest, ObjectId] = {}
        self._corrupt = set(corrupt)
        with catalog.view() as view:
            self._unverified = packs.unverified(view)
        """Packs of other capture keys: their chunks are put again."""
        self._closing: list[_ClosingPack] = []
        self._failure: BaseException | None = None
        self._closer = ThreadPoolExecutor(1, "pack closer")
        self._avoided = None if avoided is None or avoided.is_empty else avoided
        self._tag = tag
        self._numbering = Numbering(self._avoided, is_fenced) if catalog.is_shared else None
        self._next = 0
        if self._numbering is None:
            self._next = catalog.update(lambda update: update.next_object())

    def find(self, kind: Kind, level: int, digest: Digest) -> ObjectId | None:
        """Return the object with this digest, complete with its subtree, or None."""
        return self.find_all(kind, level, (digest,)).get(digest)

    def find_all(self, kind: Kind, level: int, digests: Iterable[Digest]) -> dict[Digest, ObjectId]:
        """Return the objects with these digests that the repository has, as find() does."""
        # No lock, because its holder may be waiting for the disk. This may miss an object that
        # becomes known meanwhile; put_chunks() then finds it.
        corrupt = self._corrupt
        return self._look_up(kind, level, (digest for digest in digests if digest not in corrupt))

    def _look_up(self, kind: Kind, level: int, digests: Iterable[Digest]) -> dict[Digest, ObjectId]:
        numbers, known = {}, self._known
        with self._catalog.view() as view:
            for digest in digests:
                number = known.get(digest)
                if number is None:
                    number = self._found(view, kind, level, digest)
                if number is not None:
                    numbers[digest] = number
        return numbers

    def _found(self, view: View, kind: Kind, level: int, digest: Digest) -> ObjectId | None:
        if self._avoided is None:
            return view.find_counted(kind, level, digest, self._packs.own_signer)
        for number in view.find_all(kind, level, digest):
            if self._avoided.is_usable(view, number):
                return number
        return None

    def is_bad(self, ref: Ref) -> bool:
        """Return whether this object does not count as stored, and must be put again.

        It is in quarantine, or in a pack of another capture key that no reader has verified.
        """
        if not self._unverified or ref.digest in self._corrupt:
            return ref.digest in self._corrupt
        with self._catalog.view() as view:
            location = view.location(ref.number)
        return location is not None and location.pack in self._unverified

    @property
    def has_bad(self) -> bool:
        """Whether is_bad() may be true for any object."""
        return bool(self._corrupt or self._unverified)

    def put_chunk(self, encoded: Encoded) -> Put:
        """Store a chunk, unless the repository has it."""
        return self.put_chunks((encoded,))[0]

    def put_chunks(self, chunks: Sequence[Encoded]) -> list[Put]:
        """Store each of several chunks, unless the repository has it."""
        if not chunks:
            return []
        puts = []
        with self._lock:
            self._refuse_if_broken()
            numbers = self._look_up(Kind.CHUNK, 0, [chunk.digest for chunk in chunks])
            with self._breaking(), storing("a pack"):
                for chunk in chunks:
                    number = numbers.get(chunk.digest)
                    if number is None:
                        number = self._foreign(Kind.CHUNK, 0, chunk.digest)
                        put = self._add(number, chunk, None)
                        numbers[chunk.digest] = put.ref.number
                    elif chunk.digest in self._corrupt:
                        put = self._add(number, chunk, None)
                        numbers[chunk.digest] = put.ref.number
                    else:
                        put = Put(Ref(number, chunk.digest), 0)
                    puts.append(put)
        return puts

    def put_node(self, level: int, children: Sequence[Ref | None]) -> Put:
        """Store the node over 64 children, unless the repository has it."""
        content = node_content([None if child is None else child.digest for child in children])
        digest = self.digester.object(Kind.NODE, level, content)
        numbers = [ObjectId(0) if child is None else child.number for child in children]
        with self._lock:
            self._refuse_if_broken()
            number = self._look_up(Kind.NODE, level, (digest,)).get(digest)
            if number is not None and digest not in self._corrupt:
                return Put(Ref(number, digest), 0)
            if number is None:
                number = self._foreign(Kind.NODE, level, digest, numbers)
            with self._breaking(), storing("a pack"):
                encoded = self._encoder.encode(Kind.NODE, level, digest, content)
                return self._add(number, encoded, numbers)

    def rewrite(self, number: ObjectId, encoded: Encoded) -> None:
        """Store an object that the catalog knows once more, in a new pack."""
        with self._lock:
            self._refuse_if_broken()
            with self._breaking(), storing("a pack"):
                self._add(number, encoded, None)

    def _foreign(
        self, kind: Kind, level: int, digest: Digest, children: Sequence[ObjectId] | None = None
    ) -> ObjectId | None:
        """Return an object in a pack of a capture key that is to get another location; or None.

        Only a writer that can read content changes locations, because all writers count its packs.
        A node is returned if it has these *children*.
        """
        if not self._unverified or self._packs.own_signer:
            return None
        with self._catalog.view() as view:
            number = view.find(kind, level, digest)
            if number is None or (children and view.children(number) != tuple(children)):
                return None
        return number

    def _add(
        self, number: ObjectId | None, encoded: Encoded, children: Sequence[ObjectId] | None
    ) -> Put:
        """Store an object, or rewrite the one with *number*. Hold the lock and no transaction."""
        digest = encoded.digest
        kind = encoded.kind if self._packs.is_remote else Kind.CHUNK
        opened = self._open.get(kind)
        if opened is None:
            opened = self._open[kind] = self._new_pack()
        frame = opened.pack.append(encoded)
        if number is not None:
            opened.moved.append((number, frame))
            self._corrupt.discard(digest)
        else:
            number = self._new_number(is_apart=kind is Kind.NODE)
            opened.objects.append(NewObject(number, frame, children))
        self._known[digest] = number
        if opened.pack.size >= self._pack_bytes:
            self._close_pack(Kind.CHUNK)  # Before the nodes that refer to its chunks.
            if kind is Kind.NODE:
                self._close_pack(Kind.NODE)
        return Put(Ref(number, digest), frame.end - frame.offset)

    def _new_pack(self) -> _OpenPack:
        since = 1
        if self._numbering is not None:
            with self._catalog.view() as view:
                since = view.next_pack()
        return _OpenPack(self._packs.create(new_pack_id(self._tag)), since)

    def _new_number(self, *, is_apart: bool) -> ObjectId:
        if self._numbering is not None:
            return self._numbering.new(is_apart=is_apart)
        number = ObjectId(self._next)
        self._next += 1
        return number

    def _close_pack(self, kind: Kind) -> None:
        opened = self._open.pop(kind, None)
        if opened is None:
            return
        done = self._closer.submit(self._close, opened)
        self._closing.append(_ClosingPack([frame.digest for frame in opened.pack.frames], done))
        self._wait_closed(_CLOSING_AT_ONCE)

    def _close(self, opened: _OpenPack) -> None:
        pack, objects, moved = opened.pack, opened.objects, opened.moved
        if self._failure is not None:
            pack.abandon()
            self._refuse_if_broken()
        with self._breaking():
            with storing("a pack"):
                size = pack.close()
            numbering = self._numbering
            if numbering is None:
                self._catalog.update(lambda update: _apply(update, pack, size, objects, moved))
                return
            closed = ClosedPack(pack, size, objects, moved, opened.since)
            finals = self._catalog.update(lambda update: numbering.enter(update, closed))
            numbering.settle(closed, finals)

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Make a failure final: later objects may refer to those that were not written."""
        try:
            yield
        except BaseException as exc:
            self._failure = exc
            raise

    def _refuse_if_broken(self) -> None:
        if self._failure is not None:
            raise StoreFailed(str(self._failure)) from self._failure

    def _wait_closed(self, allowed: int) -> None:
        """Wait until at most *allowed* packs are still being closed."""
        while len(self._closing) > allowed:
            closing = self._closing.pop(0)
            closing.done.result()
            for digest in closing.digests:
                del self._known[digest]

    def flush(self) -> None:
        """Wait until all objects are in flushed, closed packs and in the catalog.

        Raises:
            StoreFailed: this failed; the writer cannot be used any more.
        """
        with self._lock:
            self._close_pack(Kind.CHUNK)
            self._close_pack(Kind.NODE)
            self._wait_closed(0)
            self._refuse_if_broken()

    def close(self) -> None:
        """Drop objects that were not flushed; does nothing after flush()."""
        with self._lock:
            self._closer.shutdown(wait=True)
            while self._open:
                _, opened = self._open.popitem()
                try:
                    opened.pack.abandon()
                except OSError as exc:
                    raise StoreFailed(f"cannot remove an open pack: {exc.strerror}") from exc


def _apply(
    update: Update,
    pack: PackWriter,
    size: int,
    objects: list[NewObject],
    moved: list[tuple[ObjectId, Frame]],
) -> None:
    number = update.add_pack(pack.id, size, len(pack.frames), pack.signer)
    update.add_objects(number, objects)
    for rewritten, frame in moved:
        update.move_object(rewritten, Location(number, frame))
