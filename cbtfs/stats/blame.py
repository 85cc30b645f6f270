"""Which restore point wrote each extent of a disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cbtfs.core.blame import WrittenExtent, written_blocks, written_extents
from cbtfs.core.extent import Extent
from cbtfs.core.ids import DIGEST_BYTES, Ref
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.listing import Point, labelled, points, vm_names
from cbtfs.reader import Reader
from cbtfs.store.catalog.view import Node
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Version:
    """A disk at one restore point."""

    point: Point
    disk: DiskRecord


@dataclass(frozen=True, slots=True)
class Written:
    """An extent that one restore point wrote."""

    extent: Extent
    point: Point
    is_data: bool
    """Whether the extent holds data now; otherwise it reads as zeros."""


def versions_of(repository: Repository, point: Point, disk: DiskRecord) -> list[Version]:
    """Return *disk* at the points of its VM up to *point*, in order of capture.

    The list begins after the last point at which the disk had another block size.
    """
    versions: list[Version] = []
    with repository.catalog.view() as view:
        names = vm_names(view)
        for earlier in points(view, point.manifest.vm.id):
            record = next((d for d in earlier.manifest.disks if d.id == disk.id), None)
            if record is not None:
                if record.block_size != disk.block_size:
                    versions.clear()
                else:
                    versions.append(Version(labelled(earlier, names), record))
            if earlier.manifest.point == point.manifest.point:
                break
    return versions


def blame(
    reader: Reader, versions: Sequence[Version], area: Extent | None = None
) -> Iterator[Written]:
    """Yield which of *versions*, the result of versions_of(), wrote each extent of the last one.

    A point wrote an extent if the extent differs from that of the point before. What is equal in
    all points belongs to the first. Extents ascend, have whole blocks except where the size of the
    disk changed, and cover the disk, or *area*, without gaps.

    Raises:
        ChunkMissing: a node of a block map is missing; the message names the point.
        DataCorrupt: a node does not match its digest.
        UsageError: *area* is not within the disk.
    """
    size = versions[-1].disk.size
    if area is None:
        area = Extent(0, size) if size else None
    elif area.end > size:
        raise UsageError(f"the extent ends at {area.end}, beyond the disk's {size} bytes")
    if area is not None:
        yield from History(reader, versions).writers(area)


class History:
    """The block maps of a disk at several points, for the writers of several areas."""

    def __init__(self, reader: Reader, versions: Sequence[Version]) -> None:
        """*versions*: the result of versions_of().

        Raises:
            ChunkMissing, DataCorrupt: as blame().
        """
        self._reader = reader
        self._versions = versions
        self._last: tuple[Node | None, Sequence[bytes | None]] = None, ()
        self._trees = []
        for version in versions:
            try:
                self._trees.append(reader.disk(version.disk).tree())
            except (ChunkMissing, DataCorrupt) as exc:
                raise type(exc)(f"point {version.point.spelled}: {exc}") from exc

    def writers(self, area: Extent) -> Iterator[Written]:
        """Yield the writers of *area*, which is within the disk, as blame() does."""
        versions = self._versions
        data = self._reader.disk(versions[-1].disk).data_in(area)
        for extent, version, is_data in _split(self._written(area), data):
            yield Written(extent, versions[version].point, is_data)

    def _written(self, area: Extent) -> Iterator[WrittenExtent]:
        unit = self._versions[-1].disk.block_size
        first, end = area.start // unit, -(-area.end // unit)
        blocks = written_blocks(self._trees, first, end, self._chunks)
        return written_extents(blocks, [v.disk.size for v in self._versions], unit, area)

    def _chunks(self, leaf: Ref) -> Sequence[object]:
        node = self._reader.node(leaf, 1)
        last, names = self._last
        if last is None:
            names = node.digests()
        else:  # the leaf of a version differs in few blocks from that of the next
            names = [
                name if entry is shared else entry and entry[-DIGEST_BYTES:]
                for entry, shared, name in zip(node.entries, last.entries, names, strict=True)
            ]
        self._last = node, names
        return names


def _split(
    written: Iterator[WrittenExtent], data: Iterator[Extent]
) -> Iterator[tuple[Extent, int, bool]]:
    """Split the extents of *written* at the edges of *data*: (extent, version, is data)."""
    near = next(data, None)
    for extent, version in written:
        at = extent.start
        while at < extent.end:
            while near is not None and near.end <= at:
                near = next(data, None)
            if near is not None and near.start <= at:
                until, is_data = min(near.end, extent.end), True
            else:
                until = extent.end if near is None else min(near.start, extent.end)
                is_data = False
            yield Extent(at, until - at), version, is_data
            at = until
