"""A volume at one point, for comparisons with the same volume at another point."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import Final

from cbtfs.core.extent import Extent, between, clip, coalesce
from cbtfs.difference import differing, differing_blocks
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import Areas
from cbtfs.files.jbd2.log import Memo
from cbtfs.files.jbd2.replay import ReplayedVolume, replayed
from cbtfs.files.volumes import Nothing, SliceSource, Volume
from cbtfs.reader import Disk
from cbtfs.volumes.segment import Piece
from cbtfs.volumes.source import Source, read_bytes

_START: Final = attrgetter("start")
_PAGE_BYTES: Final = 4096
_MOST_PAGES: Final = 256
_MOST_DIFFERING: Final = 1 << 14
"""Blocks up to which all differences of two points are kept: 1 GiB of changes."""


@dataclass
class VolumeAt:
    """A volume at one point, with its journal replayed."""

    volume: Volume
    disks: Sequence[Disk]
    before: "VolumeAt | None" = None
    """The same volume at another point, whose replay makes that of this point cheaper."""
    _pages: dict[int, bytes] = field(default_factory=dict)
    _memo: Memo = field(default_factory=Memo)
    _compared: "tuple[VolumeAt, Sequence[Extent] | None] | None" = None
    """The last other point, and the extents whose stored blocks differ."""
    _changes: "tuple[VolumeAt, Sequence[Extent]] | None" = None
    """The last other point, and the extents in which files can differ."""

    @cached_property
    def _replayed(self) -> ReplayedVolume | None:
        before, self.before = self.before, None
        memo, stored = Memo(), None
        if before is not None and "_replayed" in vars(before) and self.is_like(before):
            stored = self._all_differing(before)
        if before is not None and stored is not None:
            memo, before._memo = before._memo, Memo()
        areas = Areas(stored or ())
        found = None
        with suppress(CbtfsError):  # The parser refuses it then, with the reason.
            found = replayed(self.volume.source, memo, areas.touches)
        if found is not None:  # Otherwise the memo is that of an earlier point.
            self._memo = memo
        return found

    @property
    def source(self) -> Source:
        return self._replayed or self.volume.source

    @property
    def _pieces(self) -> Sequence[object]:
        """The places of the volume on the disks of its point."""
        source = self.volume.source
        if isinstance(source, SliceSource):
            names = [self.disks[number].record.id for number in sorted(source.slice.disks)]
            return (*source.slice.segments, *sorted(source.slice.disks), *names)
        return [self.disks[self._whole].record.id]

    @property
    def _whole(self) -> int:
        """Return the index of the disk that is the volume."""
        source = self.volume.source
        return next(
            number
            for number, disk in enumerate(self.disks)
            if isinstance(source, Disk) and disk.record == source.record
        )

    @property
    def is_slice(self) -> bool:
        """Return True if the bytes of the volume are known, and not to an appliance only."""
        return not isinstance(self.volume.source, Nothing)

    def read(self, extent: Extent) -> bytes:
        """Return bytes of the volume, fewer at its end; small ones are kept in pages."""
        page, within = divmod(extent.start, _PAGE_BYTES)
        if within + extent.length > _PAGE_BYTES:
            return read_bytes(self.source, extent.start, extent.length)
        data = self._pages.get(page)
        if data is None:
            if len(self._pages) > _MOST_PAGES:
                self._pages.clear()
            try:
                data = read_bytes(self.source, page * _PAGE_BYTES, _PAGE_BYTES)
            except CbtfsError:  # The damage may be beside the wanted bytes.
                return read_bytes(self.source, extent.start, extent.length)
            self._pages[page] = data
        return data[within : within + extent.length]

    def is_like(self, other: "VolumeAt") -> bool:
        """Return True if the volume is in the same place on the same disks."""
        if not self.is_slice or not other.is_slice:
            return False
        return self._pieces == other._pieces and self._block_sizes == other._block_sizes

    @property
    def _block_sizes(self) -> list[int]:
        return [disk.record.block_size for disk in self.disks]

    def replaced(self, extent: Extent) -> Iterator[Extent]:
        """Yield the parts of *extent* that the journal replaces."""
        if self._replayed is not None:
            size = self._replayed.block_bytes
            blocks = self._replayed.replaced_in(extent.start // size, -(-extent.end // size))
            yield from clip((Extent(b * size, size) for b in blocks), extent.start, extent.end)

    def differing(self, other: "VolumeAt", extent: Extent) -> Iterator[Extent]:
        """Yield the parts of *extent* whose stored blocks differ."""
        at = extent.start
        for piece in self._places(extent):
            area = Extent(piece.offset, piece.length)
            for part in differing(self.disks[piece.disk], other.disks[piece.disk], area):
                yield Extent(at + part.start - piece.offset, part.length)
            at += piece.length

    def _places(self, extent: Extent) -> Iterator[Piece]:
        source = self.volume.source
        if isinstance(source, SliceSource):
            yield from source.slice.pieces(extent.start, extent.length)
        else:
            yield Piece(self._whole, extent.start, extent.length)

    def changed(self, other: "VolumeAt", extent: Extent) -> Iterator[Extent]:
        """Yield the parts of *extent* in which the files at two points can differ.

        These are blocks that differ, and those that a journal replaces at one of the points.

        Raises:
            ChunkMissing, DataCorrupt: a node of a block map cannot be read.
        """
        if not self.is_like(other):
            yield extent
            return
        areas = self._all_changed(other)
        if areas is None:
            own = self.differing(other, extent)
            yield from coalesce([*self.replaced(extent), *other.replaced(extent), *own])
            return
        at = max(bisect_right(areas, extent.start, key=_START) - 1, 0)
        while at < len(areas) and areas[at].start < extent.end:
            yield from clip([areas[at]], extent.start, extent.end)
            at += 1

    def _all_changed(self, other: "VolumeAt") -> Sequence[Extent] | None:
        """Return all extents in which files can differ; None if many blocks differ."""
        if self._changes is None or self._changes[0] is not other:
            stored = self._all_differing(other)
            if stored is None:
                return None
            replaced = [*self._replaced(other, stored), *other._replaced(self, stored)]
            self._changes = other, list(coalesce([*stored, *replaced]))
        return self._changes[1]

    def _replaced(self, other: "VolumeAt", stored: Sequence[Extent]) -> Iterator[Extent]:
        """Yield the blocks that the journal replaces, but those that it replaces equally there."""
        ours, theirs = self._replayed, other._replayed
        if ours is None:
            return
        size, areas = ours.block_bytes, Areas(stored)
        is_alike = theirs is not None and theirs.block_bytes == size
        for block in ours.replaced:
            place = ours.place(block)
            is_same = theirs is not None and is_alike and theirs.place(block) == place
            if place is None or not is_same or areas.touches(place[0] * size, size):
                yield Extent(block * size, size)

    def _all_differing(self, other: "VolumeAt") -> Sequence[Extent] | None:
        """Return all extents whose stored blocks differ; None if there are many.

        One walk of the block maps answers all questions about the same two points.
        """
        if other._compared is not None and other._compared[0] is self:
            return other._compared[1]
        if self._compared is None or self._compared[0] is not other:
            blocks = list(islice(self._differing_blocks(other), _MOST_DIFFERING + 1))
            few = len(blocks) <= _MOST_DIFFERING
            self._compared = other, list(coalesce(blocks)) if few else None
        return self._compared[1]

    def _differing_blocks(self, other: "VolumeAt") -> Iterator[Extent]:
        """Yield the blocks of the volume that differ, one by one."""
        at = 0
        for piece in self._places(Extent(0, max(self.volume.source.size, 1))):
            ours, theirs = self.disks[piece.disk], other.disks[piece.disk]
            unit, end = ours.record.block_size, piece.offset + piece.length
            for block in differing_blocks(ours, theirs, piece.offset // unit):
                if block * unit >= end:
                    break
                for part in clip([Extent(block * unit, unit)], piece.offset, end):
                    yield Extent(at + part.start - piece.offset, part.length)
            if ours.size != theirs.size:
                ends = between(min(ours.size, theirs.size), max(ours.size, theirs.size))
                for part in clip(ends, piece.offset, end):
                    yield Extent(at + part.start - piece.offset, part.length)
            at += piece.length
