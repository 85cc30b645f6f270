"""Restore one disk of a restore point."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.reader import Reader
from cbtfs.restore.image import Loss, Piece, copied, pieces
from cbtfs.restore.target import Target, open_target, stream_target
from cbtfs.store.repository import Repository


class FileMarker(Protocol):
    """Record of the content of a file, for later restores in place."""

    path: Path

    def discard(self) -> None:
        """Remove an earlier record durably."""

    def complete(self, point: PointId, record: DiskRecord, written: os.stat_result) -> None:
        """Record durably that the file, with the attributes *written*, holds the disk."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of a restore."""

    data_bytes: int
    """Bytes of data written; the rest of the disk is zeros."""
    lost: tuple[Extent, ...] = ()
    """Unreadable extents, which are zeros in the target."""
    loss: Loss | None = None
    """Error of the unreadable extents: DataCorrupt if any was corrupt."""
    marker: Path | None = None
    """The marker that was written."""


def restore_disk(
    repository: Repository,
    point: PointId,
    disk: DiskRecord,
    target: Path | int,
    *,
    may_overwrite: bool = False,
    keeps_going: bool = False,
    marker: FileMarker | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Write the content of a disk at *point* to *target*, holding a lease on the point.

    A target that is a file descriptor is written in order, zeros included; it may be a pipe. With
    *keeps_going*, unreadable extents become zeros and are listed in the result. *marker*, if the
    target is a regular file, is written last and only if nothing was lost. *advance* receives the
    bytes of data written.

    Raises:
        ChunkMissing: data is missing, and *keeps_going* is false.
        DataCorrupt: data is corrupt, and *keeps_going* is false.
    """
    if isinstance(target, int):
        opened = stream_target(target)
    else:
        refuse_inside(repository.path, target)
        opened = open_target(target, disk.size, may_overwrite=may_overwrite)
    with repository.points.leased(point), opened as out:
        if marker is not None:
            marker.discard()
        writer = _ImageWriter(out, keeps_going, advance)
        reader = Reader(repository, cache_bytes=0)  # Every chunk is read once.
        try:
            if out.files is None:
                found = pieces(reader, disk, None)
            else:
                found = copied(reader, disk, out.files, out.write)
            for piece in found:
                writer.put(piece)
        except (ChunkMissing, DataCorrupt) as exc:
            raise plain_class(exc)(
                f"disk {disk.label} of point {point}: {exc}; --keep-going restores the rest"
            ) from exc
        writer.zero_up_to(disk.size)
        out.finish()
        written = out.facts()
    lost = tuple(coalesce(writer.lost))
    if marker is None or lost:
        return Restored(writer.data_bytes, lost, writer.loss)
    marker.complete(point, disk, written)
    return Restored(writer.data_bytes, marker=marker.path)


class _ImageWriter:
    """Writes the pieces of an image in order, with zeros between them."""

    def __init__(self, target: Target, keeps_going: bool, advance: Callable[[int], None]) -> None:
        self._target = target
        self._keeps_going = keeps_going
        self._advance = advance
        self._at = 0
        self.data_bytes = 0
        self.lost: list[Extent] = []
        self.loss: Loss | None = None

    def put(self, piece: Piece) -> None:
        """Write *piece*, after zeros up to its start; *files* of a target have its data already."""
        extent = piece.extent
        if piece.loss is not None:
            if not self._keeps_going:
                raise piece.loss
            self.lost.append(extent)
            if self.loss is None or isinstance(piece.loss, DataCorrupt):
                self.loss = piece.loss
            return
        self.zero_up_to(extent.start)
        if self._target.files is None:
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
    """Raise the error of the lost extents, if there are any."""
    if restored.loss is not None:
        lost = sum(extent.length for extent in restored.lost)
        raise plain_class(restored.loss)(
            f"{lost} bytes are lost and were restored as zeros: {restored.loss}"
        ) from restored.loss


def plain_class(exc: Loss) -> type[Loss]:
    """Return the base class of *exc*, whose constructor takes any text."""
    return DataCorrupt if isinstance(exc, DataCorrupt) else ChunkMissing


def refuse_inside(repository: Path, target: Path) -> None:
    """Raise UsageError if *target* is in the directory of the repository."""
    if target.resolve().is_relative_to(repository.resolve()):
        raise UsageError(f"{target} is inside the repository: name another target")
