"""Move what lives out of packs that are mostly dead."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cbtfs.core.frame import Frame
from cbtfs.core.ids import ObjectId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.prune.select import PackUse
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.files import storing
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import PACK_BYTES, PackWriter
from cbtfs.store.repository import Repository

Progress = Callable[[int], None]


@dataclass(slots=True)
class _Batch:
    """A new pack, what moves into it, and the packs that are then empty."""

    writer: PackWriter
    moves: list[tuple[ObjectId, Frame]] = field(default_factory=list)
    emptied: list[PackUse] = field(default_factory=list)


class Rewriter:
    """Copies living objects into new packs, a pack at a time; each step stands for itself.

    Every copy is verified. An object that cannot be read stays where it is, and so does its pack.
    """

    def __init__(
        self, repository: Repository, progress: Progress, *, pack_bytes: int = PACK_BYTES
    ) -> None:
        self._catalog = repository.catalog
        self._packs = repository.packs
        self._progress = progress
        self._pack_bytes = pack_bytes
        self._batch: _Batch | None = None
        self.removed_packs = 0
        self.removed_bytes = 0
        self.written_bytes = 0
        self.damaged: list[str] = []
        """What is wrong with packs that were left as they are."""

    def rewrite(self, packs: Iterable[PackUse]) -> None:
        """Move all that lives out of *packs* and remove them."""
        try:
            for pack in packs:
                self._copy(pack)
                if self._batch is not None and self._batch.writer.size >= self._pack_bytes:
                    self._settle()
            self._settle()
        finally:
            if self._batch is not None:
                with storing("a pack"):
                    self._batch.writer.abandon()

    def _copy(self, pack: PackUse) -> None:
        try:
            moving = self._living(pack)
        except (DataCorrupt, ChunkMissing) as exc:
            self.damaged.append(f"pack {pack.id} is left as it is: {exc}")
            return
        is_emptied = True
        for number, frame in moving:
            try:
                encoded = self._packs.open(pack.id).load_encoded(frame)
            except (DataCorrupt, ChunkMissing) as exc:
                self.damaged.append(f"pack {pack.id} is not emptied: {exc}")
                is_emptied = False
                continue
            batch = self._open_batch()
            with storing("a pack"):
                batch.moves.append((number, batch.writer.append(encoded)))
            self._progress(frame.end - frame.offset)
        if is_emptied:
            self._open_batch().emptied.append(pack)

    def _open_batch(self) -> _Batch:
        if self._batch is None:
            with storing("a pack"):
                self._batch = _Batch(self._packs.create(new_pack_id()))
        return self._batch

    def _living(self, pack: PackUse) -> list[tuple[ObjectId, Frame]]:
        """The objects that the catalog places in *pack*, in the order they stand there."""
        frames, _ = self._packs.frames(pack.id)
        found = []
        with self._catalog.view() as view:
            for frame in frames:
                number = view.find(frame.kind, frame.level, frame.digest)
                if number is not None and view.location(number) == Location(pack.number, frame):
                    found.append((number, frame))
        if len(found) != pack.live_objects:
            raise DataCorrupt(f"{pack.live_objects} objects expected in it, {len(found)} found")
        return found

    def _settle(self) -> None:
        """Make the new pack last and known; only then remove those that it stands for."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        with storing("a pack"):
            size = batch.writer.close()
        self._catalog.update(lambda update: _apply(update, batch, size))
        self.written_bytes += size
        self.remove(batch.emptied)

    def remove(self, packs: Iterable[PackUse]) -> None:
        """Unlink packs that the catalog does not know any more."""
        for pack in packs:
            with storing("a pack"):
                self._packs.remove(pack.id)
            self.removed_packs += 1
            self.removed_bytes += pack.size


def _apply(update: Update, batch: _Batch, size: int) -> None:
    number = update.add_pack(batch.writer.id, size, len(batch.moves))
    for moved, frame in batch.moves:
        update.move_object(moved, Location(number, frame))
    for pack in batch.emptied:
        update.drop_pack(pack.number)
