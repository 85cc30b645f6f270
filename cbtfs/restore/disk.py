"""Restore one disk of a restore point."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.reader import Reader
from cbtfs.restore.image import Loss, Piece, pieces
from cbtfs.restore.target import Target, open_target, stream_target
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    data_bytes: int
    """Bytes of data that were written; the rest of the disk is zeros."""
    lost: tuple[Extent, ...] = ()
    """Extents that could not be had: they read as zeros in the target."""
    loss: Loss | None = None
    """The gravest reason why."""


def restore_disk(
    repository: Repository,
    point: PointId,
    disk: DiskRecord,
    target: Path | int,
    *,
    may_overwrite: bool = False,
    keeps_going: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make *target* hold, byte for byte, what the disk held at *point*.

    A target that is a file descriptor is written in order, zeros too; it may be a pipe.
    The point is leased meanwhile. Without *keeps_going* the first byte that cannot be had ends
    it with ChunkMissing or DataCorrupt; with it, those extents become zeros and are listed.
    *advance* is told the bytes of data written.
    """
    if isinstance(target, int):
        opened = stream_target(target)
    else:
        _refuse_inside(repository.path, target)
        opened = open_target(target, disk.size, may_overwrite=may_overwrite)
    with repository.points.leased(point), opened as out:
        writing = _Writing(out, keeps_going, advance)
        reader = Reader(repository, cache_bytes=0)  # nothing is asked for twice
        try:
            for piece in pieces(reader, disk, None if out.is_ordered else out.write):
                writing.put(piece)
        except (ChunkMissing, DataCorrupt) as exc:
            raise _plain(exc)(
                f"disk {disk.label} of point {point}: {exc}; --keep-going restores the rest"
            ) from exc
        writing.zero_up_to(disk.size)
        out.finish()
    return Restored(writing.data_bytes, tuple(coalesce(writing.lost)), writing.loss)


class _Writing:
    """What has become of an image so far, and where its next byte goes."""

    def __init__(self, target: Target, keeps_going: bool, advance: Callable[[int], None]) -> None:
        self._target = target
        self._keeps_going = keeps_going
        self._advance = advance
        self._at = 0
        self.data_bytes = 0
        self.lost: list[Extent] = []
        self.loss: Loss | None = None

    def put(self, piece: Piece) -> None:
        """Let *piece* stand where it belongs, with zeros before it; its data may be there."""
        extent = piece.extent
        if piece.loss is not None:
            if not self._keeps_going:
                raise piece.loss
            self.lost.append(extent)
            if self.loss is None or isinstance(piece.loss, DataCorrupt):
                self.loss = piece.loss
            return
        self.zero_up_to(extent.start)
        if self._target.is_ordered:
            self._target.write(extent.start, piece.data)
        self._at = extent.end
        self._target.settle(extent.end)
        self.data_bytes += extent.length
        self._advance(extent.length)

    def zero_up_to(self, end: int) -> None:
        for hole in between(self._at, end):
            self._target.zero(hole)
        self._at = max(self._at, end)


def explain_loss(restored: Restored) -> None:
    """Raise why something was lost, if anything was."""
    if restored.loss is not None:
        lost = sum(extent.length for extent in restored.lost)
        raise _plain(restored.loss)(
            f"{lost} bytes were lost and are zeros in the target: {restored.loss}"
        ) from restored.loss


def _plain(exc: Loss) -> type[Loss]:
    """The class of *exc* that takes any text."""
    return DataCorrupt if isinstance(exc, DataCorrupt) else ChunkMissing


def _refuse_inside(repository: Path, target: Path) -> None:
    if target.resolve().is_relative_to(repository.resolve()):
        raise UsageError(f"{target} is inside the repository: name a target outside of it")
