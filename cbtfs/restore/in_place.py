"""Restore one disk onto an existing image: write only the blocks that differ.

Each block of the target is read and compared by its digest with the block map, so a run needs no
knowledge of the target, and a run after an interrupted one continues. With a base, only the
difference of two block maps is compared. That needs proof that the target holds the base: its
marker, the blocks of the difference, and a sample of the rest.
"""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Final

from cbtfs.core.blockmap import runs_of
from cbtfs.core.extent import Extent, coalesce
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.difference import differing_blocks
from cbtfs.errors import ChunkMissing, DataCorrupt, SourceMismatch, TargetFailed, UsageError
from cbtfs.reader import Reader
from cbtfs.restore.disk import plain_class
from cbtfs.restore.expected import Expected, differing, expected_of_all, expected_of_blocks
from cbtfs.restore.image import PIECE_BYTES, Loss, Result, ThreadBuffer, ahead, parts_of
from cbtfs.restore.in_place_target import InPlaceTarget, open_in_place
from cbtfs.restore.marker import Marker
from cbtfs.source.image_format import format_of_start
from cbtfs.store.repository import Repository

_MAGIC_BYTES: Final = 32
"""Bytes at the start of an image that tell its format."""
_SAMPLE_BLOCKS: Final = 256
"""Blocks outside the difference that are compared with the base."""
_THREADS: Final = 8
"""Number of threads: single blocks wait for the storage, which handles several requests at once."""
_BATCH: Final = 16
"""Maximum number of extents that a thread takes at once."""
_BATCH_BYTES: Final = 4 * PIECE_BYTES
"""Length of extents that a thread takes at once: a leaf of the default block size."""
_KEPT_RUNS: Final = 1 << 18
"""Runs of blocks that are kept: 4 MiB of memory."""


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


def _each(work: Callable[[Expected], Result], items: Iterator[Expected]) -> Iterator[Result]:
    """Yield *work* of each item in order, computed ahead by threads that take several at once.

    A thread for each small item would cost more than the work.
    """

    def work_all(batch: list[Expected]) -> list[Result]:
        return [work(item) for item in batch]

    for results in ahead(work_all, _batches(items), _THREADS):
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


class _Runs:
    """Runs of blocks, kept while they are few: two walks of the block maps would take longer."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self.is_complete = False

    def kept(self, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield *runs*, (first block, blocks), and keep them."""
        for run in runs:
            if len(self._numbers) < 2 * _KEPT_RUNS:
                self._numbers.extend(run)
            yield run
        self.is_complete = len(self._numbers) < 2 * _KEPT_RUNS

    def all(self) -> Iterator[tuple[int, int]]:
        """Yield the runs, if they are complete."""
        for at in range(0, len(self._numbers), 2):
            yield self._numbers[at], self._numbers[at + 1]


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
        self._known: _Runs | None = None
        """The difference from the base, if it is small enough to be kept."""
        self._present, self._wanted = ThreadBuffer(length), ThreadBuffer(length)
        self.result = InPlaceResult(bytes_beyond=target.size - record.size)

    def apply(self, marker: Marker | None, point: PointId) -> None:
        """Check, write, flush and verify; *marker* tells the state of the target."""
        base = self._options.base
        if base is not None and marker is not None:
            self._check(base, marker)
        if marker is not None:
            if marker.is_new:
                self._refuse_format()
            marker.begin(point, self._record)
        at = 0
        for extent, piece in _each(self._settle, self._expected()):
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

    def _expected(self) -> Iterator[Expected]:
        base, record = self._options.base, self._record
        if base is None:
            yield from expected_of_all(self._reader, record, self._target.data_in)
            return
        runs = self._difference(base) if self._known is None else self._known.all()
        for expected in expected_of_blocks(self._reader, record, runs):
            yield replace(expected, differs=True)
        first = self._comparable(base)
        end = -(-record.size // record.block_size)
        yield from expected_of_blocks(self._reader, record, [(first, max(end - first, 0))])

    def _comparable(self, base: Base) -> int:
        """Return the number of blocks whose digests tell whether they differ from the base.

        If the sizes differ, the last block of the smaller disk is padded with zeros.
        """
        size, unit = min(base.record.size, self._record.size), self._record.block_size
        return size // unit if base.record.size != self._record.size else -(-size // unit)

    def _difference(self, base: Base) -> Iterator[tuple[int, int]]:
        """Yield (first block, blocks) of the runs of comparable blocks that differ."""
        end = self._comparable(base)
        before = self._reader.disk(base.record)
        numbers = differing_blocks(before, self._disk)
        return runs_of(takewhile(lambda block: block < end, numbers))

    def _check(self, base: Base, marker: Marker) -> None:
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
        known = _Runs()
        expected = chain(
            expected_of_blocks(self._reader, base.record, known.kept(self._difference(base))),
            expected_of_blocks(self._reader, base.record, runs_of(sorted(sample))),
        )
        for count, mismatches in _each(self._examine, expected):
            self.result.bytes_read += count
            if mismatches:
                raise SourceMismatch(
                    f"{name} does not hold {base.name} at byte {mismatches[0].start}: use "
                    "--compare instead of --from"
                )
        self._known = known if known.is_complete else None

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

    def _examine(self, expected: Expected) -> tuple[int, list[Extent]]:
        """Read an extent of the target. Return the bytes read and the blocks that differ."""
        if expected.loss is not None:
            if self._options.keeps_going:
                return 0, []
            raise expected.loss
        unit = self._record.block_size
        runs = differing(expected, self._read(expected.extent), unit, self._reader.digester)
        blocks = [block for run in runs for block in parts_of(run.extent, unit)]
        return expected.extent.length, blocks

    def _read(self, extent: Extent) -> memoryview:
        data = self._present.mine[: extent.length]
        self._target.read(extent.start, data)
        return data

    def _settle(self, expected: Expected) -> tuple[Extent, InPlaceResult]:
        """Write the blocks of an extent that differ. Called by several threads."""
        piece = InPlaceResult()
        if expected.loss is not None:
            self._lose(expected.extent, expected.loss, piece)
            return expected.extent, piece
        data = None if expected.differs else self._read(expected.extent)
        piece.bytes_read = 0 if data is None else len(data)
        for run in differing(expected, data, self._record.block_size, self._reader.digester):
            if run.is_zero:
                self._target.zero(run.extent)
                piece.bytes_written += run.extent.length
            else:
                self._write(run.extent, piece)
        return expected.extent, piece

    def _write(self, extent: Extent, piece: InPlaceResult) -> None:
        data = self._wanted.mine[: extent.length]
        try:
            self._disk.read_into(extent.start, data)
        except (ChunkMissing, DataCorrupt) as exc:
            unit = self._record.block_size
            if extent.length <= unit:
                self._lose(extent, exc, piece)
                return
            for start in range(extent.start, extent.end, unit):
                self._write(Extent(start, min(unit, extent.end - start)), piece)
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
