"""Disks of any size and shape, without their bytes in memory: they consist of a few chunks."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from cbtfs.core.blockmap import FANOUT, Builder, Shape
from cbtfs.core.extent import Extent, clip, coalesce
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Ref
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.store.codec import Encoder
from cbtfs.store.identity import new_disk_id
from cbtfs.store.repository import Repository, writing
from cbtfs.store.writer import ObjectWriter
from tests.make_points import manifest_of

_PATTERNS: Final = 61
"""Number of distinct chunks: no multiple of it is near a power of two."""


@dataclass(frozen=True, slots=True)
class PatternedDisk:
    """A disk with a pattern in some runs of blocks; the rest is zeros."""

    size: int
    runs: Sequence[tuple[int, int]]
    """(first block, blocks), ascending and disjoint."""
    block_size: int

    def content(self, block: int) -> bytes:
        """Return the bytes of a block that holds data."""
        return b"%08d" % (block % _PATTERNS) * (self.block_size // 8)

    def extents(self) -> list[Extent]:
        """Return the extents with data, ascending and not adjacent."""
        unit = self.block_size
        merged = coalesce(Extent(first * unit, count * unit) for first, count in self.runs)
        return list(clip(merged, 0, self.size))

    def blocks(self) -> Iterator[int]:
        """Yield the blocks that hold data, ascending."""
        for first, count in self.runs:
            yield from range(first, first + count)


def random_disk(seed: int, blocks: int, block_size: int) -> PatternedDisk:
    """Return a disk with runs of random lengths; its last block may have fewer sectors."""
    rng = random.Random(seed)
    lengths = [1, 2, FANOUT - 1, FANOUT, FANOUT + 1, 700, FANOUT**2 - 1]
    starts = [0]
    while starts[-1] < blocks:
        starts.append(starts[-1] + rng.choice(lengths))
    starts[-1] = blocks
    runs = [(start, end - start) for start, end in pairwise(starts)]
    size = blocks * block_size - rng.randrange(block_size // 512) * 512
    return PatternedDisk(size, runs[rng.randrange(2) :: 2], block_size)


def add_patterned_point(path: Path, disks: Mapping[str, PatternedDisk]) -> Manifest:
    """Commit a point with these disks to the repository at *path*."""
    with writing(path) as repository:
        objects = object_writer(repository)
        try:
            records = [put_disk(objects, label, disk) for label, disk in disks.items()]
            manifest = manifest_of("vm", None, tuple(records))
            repository.commit(objects, manifest)
        finally:
            objects.close()
    return manifest


def object_writer(repository: Repository) -> ObjectWriter:
    return ObjectWriter(repository.catalog, repository.packs, repository.settings.level)


def put_disk(objects: ObjectWriter, label: str, disk: PatternedDisk) -> DiskRecord:
    """Store the chunks and the block map of a disk."""
    chunks = _put_chunks(objects, map(disk.content, range(_PATTERNS)))
    shape = Shape(disk.size, disk.block_size)
    builder = Builder[Ref](shape, None, lambda level, nodes: objects.put_node(level, nodes).ref)
    count = 0
    for leaf, blocks in groupby(disk.blocks(), lambda block: block // FANOUT):
        children: list[Ref | None] = [None] * FANOUT
        for block in blocks:
            children[block % FANOUT] = chunks[block % _PATTERNS]
            count += 1
        builder.put_leaf(leaf, children)
    return record_of(label, disk.size, disk.block_size, builder.finish(), count)


def put_dense_disk(objects: ObjectWriter, label: str, height: int, block_size: int) -> DiskRecord:
    """Store a disk of one chunk repeated, as large as a block map of that height can be."""
    (chunk,) = _put_chunks(objects, [b"repeated" * (block_size // 8)])
    for level in range(1, height + 1):
        chunk = objects.put_node(level, [chunk] * FANOUT).ref
    blocks = FANOUT**height
    return record_of(label, blocks * block_size, block_size, chunk, blocks)


def _put_chunks(objects: ObjectWriter, contents: Iterable[bytes]) -> list[Ref]:
    encoder = Encoder()
    return [
        objects.put_chunk(
            encoder.encode(Kind.CHUNK, 0, objects.digester.chunk(content), content)
        ).ref
        for content in contents
    ]


def record_of(
    label: str, size: int, block_size: int, root: Ref | None, data_blocks: int
) -> DiskRecord:
    """Return the record of a full disk."""
    return DiskRecord(
        id=new_disk_id(),
        identity=label,
        label=label,
        kind="disk",
        size=size,
        block_size=block_size,
        root=NULL_DIGEST if root is None else root.digest,
        data_blocks=data_blocks,
        ingest="full",
        reason="first",
        parent=None,
    )
