"""New objects on their way into packs and catalog."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple

from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, ObjectId, Ref
from cbtfs.errors import StoreFailed
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import NewObject, Update
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.digest import digest_of, node_content
from cbtfs.store.files import storing
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import PACK_BYTES, PackWriter
from cbtfs.store.packs import PackFolder

_CLOSING_AT_ONCE: Final = 2
"""Packs that wait for the disk while the next one fills: bounds memory and what a crash costs."""


class Put(NamedTuple):
    """What became of an object that was put."""

    ref: Ref
    stored: int
    """Bytes of the frame written for it; 0 if the repository had it."""


class _Closing(NamedTuple):
    digests: list[Digest]
    done: "Future[None]"


class ObjectWriter:
    """Puts objects that the repository does not have yet; safe to use from several threads.

    An object is found by later puts from the moment it is put; the catalog names it only when
    its pack is closed and lasts. Packs are closed, and made known, in the order of writing; when
    one cannot be, none after it is, and the writer is of no more use.
    """

    def __init__(
        self,
        catalog: Catalog,
        packs: PackFolder,
        level: int,
        *,
        pack_bytes: int = PACK_BYTES,
        bad: Iterable[Digest] = (),
        threads: int | None = None,
    ) -> None:
        """*bad* are digests of objects in quarantine: they are stored anew, under their ids.

        *level* is that of zstd, *threads* how many are to make objects; None: as many as cores.
        """
        self.level = level
        self.threads = threads
        self._catalog = catalog
        self._packs = packs
        self._pack_bytes = pack_bytes
        self._encoder = Encoder(level)
        self._lock = threading.Lock()
        self._pack: PackWriter | None = None
        self._objects: list[NewObject] = []
        self._moved: list[tuple[ObjectId, Frame]] = []
        self._known: dict[Digest, ObjectId] = {}
        self._bad = set(bad)
        self._closing: list[_Closing] = []
        self._failure: BaseException | None = None
        self._closer = ThreadPoolExecutor(1, "pack closer")
        self._next = catalog.update(lambda update: update.next_object())

    def find(self, kind: Kind, level: int, digest: Digest) -> ObjectId | None:
        """The object of that digest, whole with all below it, if the repository has it."""
        return self.find_all(kind, level, (digest,)).get(digest)

    def find_all(self, kind: Kind, level: int, digests: Iterable[Digest]) -> dict[Digest, ObjectId]:
        """What find() finds, of several."""
        # Without the lock: who holds it may be waiting for the disk. What becomes known to the
        # catalog meanwhile may be missed here; it is not when it is put.
        bad = self._bad
        return self._look_up(kind, level, (each for each in digests if each not in bad))

    def _look_up(self, kind: Kind, level: int, digests: Iterable[Digest]) -> dict[Digest, ObjectId]:
        found, known = {}, self._known
        with self._catalog.view() as view:
            for digest in digests:
                number = known.get(digest)
                if number is None:
                    number = view.find(kind, level, digest)
                if number is not None:
                    found[digest] = number
        return found

    def is_bad(self, digest: Digest) -> bool:
        """Whether the repository has this object in quarantine: then it is to be put again."""
        return digest in self._bad

    @property
    def has_bad(self) -> bool:
        """Whether anything is in quarantine that was not put again yet."""
        return bool(self._bad)

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
            found = self._look_up(Kind.CHUNK, 0, [each.digest for each in chunks])
            with self._breaking(), storing("a pack"):
                for each in chunks:
                    number = found.get(each.digest)
                    if number is None or each.digest in self._bad:
                        put = self._add(number, each, None)
                        found[each.digest] = put.ref.number
                    else:
                        put = Put(Ref(number, each.digest), 0)
                    puts.append(put)
        return puts

    def put_node(self, level: int, children: Sequence[Ref | None]) -> Put:
        """Store the node over 64 children, unless the repository has it."""
        content = node_content([None if child is None else child.digest for child in children])
        digest = digest_of(Kind.NODE, level, content)
        numbers = [ObjectId(0) if child is None else child.number for child in children]
        with self._lock:
            self._refuse_if_broken()
            number = self._look_up(Kind.NODE, level, (digest,)).get(digest)
            if number is not None and digest not in self._bad:
                return Put(Ref(number, digest), 0)
            with self._breaking(), storing("a pack"):
                encoded = self._encoder.encode(Kind.NODE, level, digest, content)
                return self._add(number, encoded, numbers)

    def _add(
        self, number: ObjectId | None, encoded: Encoded, children: Sequence[ObjectId] | None
    ) -> Put:
        """Store an object, anew if it has a *number*. The lock is held, and no transaction open."""
        digest = encoded.digest
        if self._pack is None:
            self._pack = self._packs.create(new_pack_id())
        frame = self._pack.append(encoded)
        if number is not None:
            self._moved.append((number, frame))
            self._bad.discard(digest)
        else:
            number = ObjectId(self._next)
            self._next += 1
            self._objects.append(NewObject(number, frame, children))
        self._known[digest] = number
        if self._pack.size >= self._pack_bytes:
            self._close_pack()
        return Put(Ref(number, digest), frame.end - frame.offset)

    def _close_pack(self) -> None:
        if self._pack is None:
            return
        pack, objects, moved = self._pack, self._objects, self._moved
        self._pack, self._objects, self._moved = None, [], []
        done = self._closer.submit(self._close, pack, objects, moved)
        self._closing.append(_Closing([frame.digest for frame in pack.frames], done))
        self._wait_closed(_CLOSING_AT_ONCE)

    def _close(
        self, pack: PackWriter, objects: list[NewObject], moved: list[tuple[ObjectId, Frame]]
    ) -> None:
        if self._failure is not None:
            pack.abandon()
            self._refuse_if_broken()
        with self._breaking():
            with storing("a pack"):
                size = pack.close()
            self._catalog.update(lambda update: _apply(update, pack, size, objects, moved))

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Let a failure be the last thing that this writer does: what comes next may need it."""
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
        """Wait until everything that was put is in closed packs that last, and in the catalog.

        StoreFailed if that cannot be; the writer is of no more use then.
        """
        with self._lock:
            self._close_pack()
            self._wait_closed(0)
            self._refuse_if_broken()

    def close(self) -> None:
        """Drop what was not flushed; no harm after flush()."""
        with self._lock:
            self._closer.shutdown(wait=True)
            pack, self._pack = self._pack, None
            if pack is not None:
                try:
                    pack.abandon()
                except OSError as exc:
                    raise StoreFailed(f"cannot remove an open pack: {exc.strerror}") from exc


def _apply(
    update: Update,
    pack: PackWriter,
    size: int,
    objects: list[NewObject],
    moved: list[tuple[ObjectId, Frame]],
) -> None:
    number = update.add_pack(pack.id, size, len(pack.frames))
    update.add_objects(number, objects)
    for each, frame in moved:
        update.move_object(each, Location(number, frame))
