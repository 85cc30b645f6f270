"""Rewriting of packs: moves live objects out of sparse packs."""

import errno
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import ObjectId
from cbtfs.errors import ChunkMissing, DataCorrupt, StoreFailed
from cbtfs.prune.select import PackUse
from cbtfs.prune.space import Space, step_bytes, take_step
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import PACK_BYTES, PackWriter
from cbtfs.store.repository import Repository
from cbtfs.store.storing import storing

Progress = Callable[[int], None]

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class _PackRewrite:
    """A new pack, the objects that move into it, and the packs that they leave empty."""

    writer: PackWriter
    moves: list[tuple[ObjectId, Frame]] = field(default_factory=list)
    emptied: list[PackUse] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


class Rewriter:
    """Copies live objects into new packs, in steps that fit into the free space.

    A step writes one pack, flushes it, adds it to the catalog and removes the packs that it
    replaces. So each step increases the free space for the next one, and a prune may end after any
    step. Every copy is verified. An object that cannot be read stays in its pack.
    """

    def __init__(
        self,
        repository: Repository,
        space: Space,
        *,
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        self._catalog = repository.catalog
        self._packs = repository.packs
        self.space = space
        self._pack_bytes = pack_bytes
        with repository.catalog.view() as view:
            self._unverified = repository.packs.unverified(view)
        self._gone: set[int] = set()
        self.removed_packs = 0
        self.removed_bytes = 0
        self.written_bytes = 0
        self.damaged: list[str] = []
        """Errors of packs that stay unchanged."""
        self.postponed: tuple[PackUse, ...] = ()
        """Packs that were not rewritten because free space was low."""

    def rewrite(self, packs: Iterable[PackUse], progress: Progress) -> None:
        """Move live objects out of *packs* and remove these, as far as the free space allows."""
        remaining = deque(packs)
        while remaining:
            free = self.space.free
            step = take_step(remaining, free, self.space.catalog, self._pack_bytes)
            if step:
                if not self._rewrite_step(step, progress):
                    self.space.refused(free, step_bytes(step, self.space.catalog))
                    remaining.extendleft(reversed(step))
            elif not self.space.wait_for(least_bytes(remaining, self.space.catalog)):
                break
        self.postponed = tuple(remaining)

    def _rewrite_step(self, step: Iterable[PackUse], progress: Progress) -> bool:
        """Rewrite *step* into one pack; False, without a change, if it did not fit."""
        with storing("a pack"):
            try:
                writer = self._packs.create(new_pack_id())
            except OSError as exc:
                if exc.errno in _NO_SPACE:
                    return False
                raise
        batch = _PackRewrite(writer)
        try:
            for pack in step:
                self._copy(pack, batch, progress)
            with storing("a pack"):
                if not batch.moves:
                    writer.abandon()
                    size = 0
                else:
                    size = writer.close()
        except BaseException as exc:
            with storing("a pack"):
                writer.abandon()
            if isinstance(exc, StoreFailed) and _is_no_space(exc):
                return False
            raise
        if size:
            self._catalog.update(lambda update: _apply(update, batch, size))
            self.written_bytes += size
            self.space.wrote(size)
        self.damaged += batch.damaged
        self.remove(batch.emptied)
        return True

    def _copy(self, pack: PackUse, batch: _PackRewrite, progress: Progress) -> None:
        try:
            moving = self._living(pack)
        except (DataCorrupt, ChunkMissing) as exc:
            batch.damaged.append(f"pack {pack.id} stays unchanged: {exc}")
            return
        is_emptied = True
        for number, frame in moving:
            if frame.kind is Kind.NODE and not self._is_complete(pack, number, batch):
                is_emptied = False
                continue
            try:
                encoded = self._packs.open(pack.id).load_encoded(frame)
            except (DataCorrupt, ChunkMissing) as exc:
                batch.damaged.append(f"pack {pack.id} stays: an object cannot be read: {exc}")
                is_emptied = False
                continue
            with storing("a pack"):
                batch.moves.append((number, batch.writer.append(encoded)))
            progress(frame.end - frame.offset)
        if is_emptied:
            batch.emptied.append(pack)

    def _is_complete(self, pack: PackUse, node: ObjectId, batch: _PackRewrite) -> bool:
        """Return whether a node may be signed: its children are in packs that count, or move, too.

        Else it would count for all writers, above chunks of a capture key that nobody verified.
        """
        if pack.number not in self._unverified:
            return True
        moved = {number for number, _ in batch.moves}
        with self._catalog.view() as view:
            children = [c for c in view.children(node) if c and c not in moved]
            locations = view.locations(children).values()
        return all(location.pack not in self._unverified for location in locations)

    def _living(self, pack: PackUse) -> list[tuple[ObjectId, Frame]]:
        """Return the objects that the catalog locates in *pack*, in order of offset."""
        frames, _ = self._packs.frames(pack.id)
        objects = []
        with self._catalog.view() as view:
            for frame in frames:
                number = view.find_at(
                    frame.kind, frame.level, frame.digest, pack.number, frame.offset
                )
                if number is not None and view.location(number) == Location(pack.number, frame):
                    objects.append((number, frame))
        if len(objects) != pack.live_objects:
            raise DataCorrupt(f"expected {pack.live_objects} objects, found {len(objects)}")
        return objects

    def remove(self, packs: Iterable[PackUse]) -> None:
        """Delete packs without live objects."""
        before, size = self.space.free, 0
        for pack in packs:
            if pack.number in self._gone:
                continue
            with storing("a pack"):
                self._packs.remove(pack.id)
            self._gone.add(pack.number)
            self.removed_packs += 1
            size += pack.size
        self.removed_bytes += size
        if size:
            self.space.removed(before, size)


def least_bytes(packs: Iterable[PackUse], catalog: int) -> int:
    """Return the minimum free space that a rewrite of one of *packs* takes; 0 without packs."""
    return min((step_bytes([pack], catalog) for pack in packs), default=0)


def _is_no_space(failure: StoreFailed) -> bool:
    cause = failure.__cause__
    return isinstance(cause, OSError) and cause.errno in _NO_SPACE


def _apply(update: Update, batch: _PackRewrite, size: int) -> None:
    number = update.add_pack(batch.writer.id, size, len(batch.moves), batch.writer.signer)
    for moved, frame in batch.moves:
        update.move_object(moved, Location(number, frame))
    for pack in batch.emptied:
        update.drop_pack(pack.number)
