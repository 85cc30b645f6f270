"""Restore one disk onto an existing image: write only the blocks that differ.

Each block of the target is read and compared by its digest with the block map, so a run needs no
knowledge of the target, and a run after an interrupted one continues. With a base, only the
difference of two block maps is compared. That needs proof that the target holds the base: its
marker, the blocks of the difference, and a sample of the rest.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path
from typing import Final

from cbtfs.ahead import Result, ahead
from cbtfs.core.blockmap import FANOUT, runs_of
from cbtfs.core.extent import Extent, between, coalesce
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.difference import differing_blocks
from cbtfs.errors import ChunkMissing, DataCorrupt, SourceMismatch, TargetFailed, UsageError
from cbtfs.native import Leaf
from cbtfs.reader import Reader
from cbtfs.restore.compare import matching
from cbtfs.restore.disk import plain_class
from cbtfs.restore.expected import Expected, differing, expected_of_all, expected_of_blocks
from cbtfs.restore.image import PIECE_BYTES, Loss, ThreadBuffer, parts_of
from cbtfs.restore.in_place_target import InPlaceTarget, open_in_place
from cbtfs.restore.known_difference import KnownDifference
from cbtfs.restore.marker import Marker
from cbtfs.source.image_format import format_of_start
from cbtfs.store.repository import Repository

_MAGIC_BYTES: Final = 32
"""Bytes at the start of an image that tell its format."""
_SAMPLE_BLOCKS: Final = 256
"""Blocks outside the difference that are compared with the base."""
_THREADS: Final = 8
"""Number of threads: single blocks wait for the storage, which handles several requests at once."""
_BATCH: Final = 32
"""Maximum number of extents that a thread takes at once."""
_BATCH_BYTES: Final = 4 * PIECE_BYTES
"""Length of extents that a thread takes at once: a leaf of the default block size."""


@dataclass(frozen=True, slots=True)
class Base:
    """The disk that the target is said to hold."""

    point: PointId
    record: DiskRecord
    name: str
    """Name for messages."""


@dataclass(frozen=True, slots=True)
class InPlaceOptions:
    """Options of a restore in place."""

    base: Base | None = None
    """None: compare the whole target."""
    state: Path | None = None
    """Path of the marker; by default that of the target with a suffix."""
    verifies: bool = False
    keeps_going: bool = False
    advance: Callable[[int], None] = lambda _: None
    """Receives the bytes of the disk that are done."""


@dataclass(slots=True)
class InPlaceResult:
    """Result of a restore in place."""

    bytes_read: int = 0
    """Bytes read from the target, those to check and to verify it included."""
    bytes_written: int = 0
    """Bytes written or zeroed."""
    bytes_skipped: int = 0
    """Bytes of the disk that were not written."""
    bytes_beyond: int = 0
    """Bytes of the target after the end of the disk, which are left alone."""
    is_verified: bool = False
    lost: list[Extent] = field(default_factory=list)
    """Unreadable extents, which are zeros in the target."""
    loss: Loss | None = None
    """Error of the unreadable extents: DataCorrupt if any was corrupt."""


def restore_in_place(
    repository: Repository,
    point: PointId,
    record: DiskRecord,
    target: str,
    options: InPlaceOptions,
) -> InPlaceResult:
    """Make *target* equal the disk at *point*, and hold leases on the points used.

    *target* is the path of a file or block device, or the URI of an NBD export. Bytes of the target
    after the end of the disk are left alone.

    Raises:
        UsageError: *target* is unsuitable, or *options* are.
        SourceMismatch: the target may not hold the base.
        ChunkMissing: data is missing, and the run does not keep going.
        DataCorrupt: data is corrupt, and the run does not keep going.
        TargetFailed: a write failed, or the target does not verify.
    """
    with ExitStack() as stack:
        stack.enter_context(repository.points.leased(point))
        if options.base is not None:
            stack.enter_context(repository.points.leased(options.base.point))
        opened = stack.enter_context(open_in_place(target, record.size, repository.path))
        if opened.path is None and options.base is not None:
            raise UsageError(
                f"--from needs a regular file, and changes of {opened.name} cannot be detected: "
                "use --compare"
            )
        marker = None
        if opened.path is not None or options.state is not None:
            marker = Marker(opened, options.state, repository.path)
        reader = Reader(repository, cache_bytes=0)
        run = _Run(reader, record, opened, options)
        try:
            run.apply(marker, point)
        except (ChunkMissing, DataCorrupt) as exc:
            advice = "; --keep-going restores the rest" if options.base is None else ""
            raise plain_class(exc)(
                f"disk {record.label} of point {point}: {exc}{advice}; {opened.name} is incomplete"
            ) from exc
    return run.result


def _each(
    work: Callable[[list[Expected]], list[Result]], items: Iterator[Expected]
) -> Iterator[Result]:
    """Yield *work* of the items in order, computed ahead by threads that take several at once.

    A thread for each small item would cost more than the work.
    """
    for results in ahead(work, _batches(items), _THREADS):
        yield from results


def _batches(items: Iterator[Expected]) -> Iterator[list[Expected]]:
    batch: list[Expected] = []
    length = 0
    for item in items:
        batch.append(item)
        length += item.extent.length
        if length >= _BATCH_BYTES or len(batch) >= _BATCH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


class _Run:
    """One restore in place."""

    def __init__(
        self,
        reader: Reader,
        record: DiskRecord,
        target: InPlaceTarget,
        options: InPlaceOptions,
    ) -> None:
        self._reader = reader
        self._record = record
        self._disk = reader.disk(record)
        self._target = target
        self._options = options
        length = max(PIECE_BYTES, record.block_size)
        self._buffers = ThreadBuffer(length)
        self.result = InPlaceResult(bytes_beyond=target.size - record.size)

    def apply(self, marker: Marker | None, point: PointId) -> None:
        """Check, write, flush and verify; *marker* tells the state of the target."""
        base, known = self._options.base, None
        if base is not None and marker is not None:
            known = self._difference(base)
            self._check(base, known, marker)
        if marker is not None:
            if marker.is_new:
                self._refuse_format()
            marker.begin(point, self._record)
        at = 0
        for extent, piece in _each(self._settle, self._expected(known)):
            self._add(piece)
            self._options.advance(extent.end - at)
            at = extent.end
        self._options.advance(self._record.size - at)
        result = self.result
        result.lost = list(coalesce(result.lost))
        result.bytes_skipped = self._record.size - result.bytes_written
        self._target.flush()
        if self._options.verifies:
            self._verify()
        if marker is not None and not result.lost:
            marker.complete(point, self._record)

    def _refuse_format(self) -> None:
        """Raise UsageError if the target is not raw, unless it begins as the disk does.

        A guest can write the magic number of a format into its first sector.
        """
        head = bytearray(min(_MAGIC_BYTES, self._record.size))
        self._target.read(0, memoryview(head))
        found = format_of_start(bytes(head))
        if self._record.kind != "disk" or found is None:
            return
        if bytes(self._disk.read(0, len(head))) != bytes(head):
            raise UsageError(
                f"{self._target.name} is a {found.name} image, and raw bytes would destroy it: "
                f"serve it with 'qemu-nbd --format={found.qemu}' and restore to the URI, or "
                "replace it by a restore with --force"
            )

    def _expected(self, known: KnownDifference | None) -> Iterator[Expected]:
        base, record = self._options.base, self._record
        if base is None or known is None:
            yield from expected_of_all(self._reader, record, self._target.data_in)
            return
        yield from known.expected()
        first = self._comparable(base)
        end = -(-record.size // record.block_size)
        yield from expected_of_blocks(self._reader, record, [(first, max(end - first, 0))])

    def _comparable(self, base: Base) -> int:
        """Return the number of blocks whose digests tell whether they differ from the base.

        If the sizes differ, the last block of the smaller disk is padded with zeros.
        """
        size, unit = min(base.record.size, self._record.size), self._record.block_size
        return size // unit if base.record.size != self._record.size else -(-size // unit)

    def _difference(self, base: Base) -> KnownDifference:
        """Return the comparable blocks that differ."""
        end = self._comparable(base)

        def runs() -> Iterator[tuple[int, int]]:
            numbers = differing_blocks(self._reader.disk(base.record), self._disk)
            return runs_of(takewhile(lambda block: block < end, numbers))

        return KnownDifference(self._reader, self._record, runs)

    def _check(self, base: Base, known: KnownDifference, marker: Marker) -> None:
        """Raise SourceMismatch unless the target holds the base where that matters."""
        name = self._target.name
        if base.record.block_size != self._record.block_size:
            raise SourceMismatch(
                f"{base.name} has another block size: use --compare instead of --from"
            )
        marker.refuse_misfit(base.record, base.name)
        size = min(base.record.size, self._record.size)
        blocks = -(-size // base.record.block_size)
        sample = {*random.sample(range(blocks), min(_SAMPLE_BLOCKS, blocks))}
        sample |= {*range(self._comparable(base), blocks)}
        expected = chain(
            expected_of_blocks(self._reader, base.record, known.runs()),
            expected_of_blocks(self._reader, base.record, runs_of(sorted(sample))),
        )
        for count, mismatches in _each(self._examine, expected):
            self.result.bytes_read += count
            if mismatches:
                raise SourceMismatch(
                    f"{name} does not hold {base.name} at byte {mismatches[0].start}: use "
                    "--compare instead of --from"
                )

    def _verify(self) -> None:
        """Raise TargetFailed unless the target holds the disk, except where data was lost."""
        self._target.drop_cache()
        expected = expected_of_all(self._reader, self._record, self._target.data_in)
        for count, mismatches in _each(self._examine, expected):
            self.result.bytes_read += count
            for block in mismatches:
                if not any(e.start <= block.start < e.end for e in self.result.lost):
                    raise TargetFailed(
                        f"{self._target.name} does not verify at byte {block.start}: its storage "
                        "or another program changed what was written"
                    )
        self.result.is_verified = True

    def _matches(self, items: list[Expected]) -> list[Sequence[int]]:
        """Return for each of *items* whether its blocks are in the target; none that is lost."""
        target, digester = self._target, self._reader.digester
        readable = [item for item in items if item.loss is None]
        found = matching(target, readable, self._record.block_size, digester, self._buffers.mine)
        left = iter(found)
        return [b"" if item.loss is not None else next(left) for item in items]

    def _examine(self, items: list[Expected]) -> list[tuple[int, list[Extent]]]:
        """Read extents of the target. Return for each the bytes read and the blocks that differ."""
        if not self._options.keeps_going:
            for item in items:
                if item.loss is not None:
                    raise item.loss
        return [self._differing(*pair) for pair in zip(items, self._matches(items), strict=True)]

    def _differing(self, item: Expected, matches: Sequence[int]) -> tuple[int, list[Extent]]:
        if item.loss is not None:
            return 0, []
        unit = self._record.block_size
        runs = differing(item, matches, unit)
        return item.extent.length, [block for run in runs for block in parts_of(run.extent, unit)]

    def _settle(self, items: list[Expected]) -> list[tuple[Extent, InPlaceResult]]:
        """Write the blocks of extents that differ. Called by several threads."""
        unknown = [item for item in items if item.entries is None]
        matches = iter(self._matches(unknown))
        return [self._settle_one(item, matches) for item in items]

    def _settle_one(
        self, item: Expected, matches: Iterator[Sequence[int]]
    ) -> tuple[Extent, InPlaceResult]:
        piece = InPlaceResult()
        if item.entries is None:
            present = next(matches)
            piece.bytes_read = 0 if item.loss is not None else item.extent.length
        else:
            present = bytes(len(item.entries))
        if item.loss is not None:
            self._lose(item.extent, item.loss, piece)
            return item.extent, piece
        for run in differing(item, present, self._record.block_size):
            if run.is_zero:
                self._target.zero(run.extent)
                piece.bytes_written += run.extent.length
            else:
                self._write(run.extent, item, piece)
        return item.extent, piece

    def _write(self, extent: Extent, item: Expected, piece: InPlaceResult) -> None:
        """Write *extent*, which is part of *item* and holds data."""
        at = self._copy(extent, item)
        piece.bytes_written += at - extent.start
        unit = self._record.block_size
        for rest in between(at, extent.end):
            for part in parts_of(rest, len(self._buffers.mine) // unit * unit):
                self._load_and_write(part, piece)

    def _copy(self, extent: Extent, item: Expected) -> int:
        """Copy data to a file by compiled code. Return the offset before which all is copied."""
        files, unit = self._target.files, self._record.block_size
        if files is None:
            return extent.start
        index, within = divmod(extent.start, unit * FANOUT)
        position = extent.start - within
        try:
            leaf = self._leaf(item, index)
            if leaf is None:
                return extent.start
            for slot in range(within // unit, -(-(extent.end - position) // unit)):
                self._reader.attach(leaf, slot)
        except (ChunkMissing, DataCorrupt):
            return extent.start
        end = extent.end - position
        chunks, buffer = self._reader.chunks, self._buffers.mine
        return position + chunks.write(leaf, unit, within, end, files, position, buffer)

    def _leaf(self, item: Expected, index: int) -> Leaf | None:
        if item.entries is None:
            return self._reader.leaf(self._record, index)
        before = item.extent.start // self._record.block_size % FANOUT
        after = FANOUT - before - len(item.entries)
        return Leaf((None,) * before + item.entries + (None,) * after)

    def _load_and_write(self, extent: Extent, piece: InPlaceResult) -> None:
        data = self._buffers.mine[: extent.length]
        try:
            self._disk.read_into(extent.start, data)
        except (ChunkMissing, DataCorrupt) as exc:
            unit = self._record.block_size
            if extent.length <= unit:
                self._lose(extent, exc, piece)
                return
            for part in parts_of(extent, unit):
                self._load_and_write(part, piece)
            return
        self._target.write(extent.start, data)
        piece.bytes_written += extent.length

    def _lose(self, extent: Extent, loss: Loss, piece: InPlaceResult) -> None:
        """Put zeros in place of unreadable data, or raise *loss*."""
        if not self._options.keeps_going:
            raise loss
        self._target.zero(extent)
        piece.bytes_written += extent.length
        piece.lost.append(extent)
        piece.loss = loss

    def _add(self, piece: InPlaceResult) -> None:
        result = self.result
        result.bytes_read += piece.bytes_read
        result.bytes_written += piece.bytes_written
        result.lost += piece.lost
        if result.loss is None or isinstance(piece.loss, DataCorrupt):
            result.loss = piece.loss or result.loss
