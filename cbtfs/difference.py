"""The blocks and extents in which two disks differ, from their block maps."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from cbtfs.core.blockmap import FANOUT, Shape, Tree, diff
from cbtfs.core.extent import Extent, between, clip, coalesce
from cbtfs.core.ids import Digest, ObjectId, Ref
from cbtfs.reader import Disk


class _NodeDigest(bytes):
    """The digest of a node, compared as bytes; *number* locates the node."""

    number: ObjectId


def _node_digest(reference: Ref) -> _NodeDigest:
    digest = _NodeDigest(reference.digest)
    digest.number = reference.number
    return digest


def _tree(disk: Disk) -> Tree[bytes]:
    """Return a block map as a tree of digests: they are compared faster than references."""

    def load(child: bytes, level: int) -> Sequence[bytes | None]:
        assert isinstance(child, _NodeDigest)
        node = disk.reader.node(Ref(child.number, Digest(child)), level)
        if level == 1:
            return node.digests()
        below = map(node.child, range(FANOUT))
        return [None if ref is None else _node_digest(ref) for ref in below]

    root = disk.reader.root(disk.record)
    top = None if root is None else _node_digest(root)
    return Tree[bytes](top, Shape(disk.size, disk.record.block_size).blocks, load)


def differing_blocks(left: Disk, right: Disk, first: int = 0) -> Iterator[int]:
    """Yield the numbers of the blocks that differ, from *first* on, ascending.

    Loads no equal subtrees, and no nodes before *first*.

    Raises:
        ChunkMissing: a node is missing.
        DataCorrupt: a node is corrupt.
    """
    return diff(_tree(left), _tree(right), first)


def differing(left: Disk, right: Disk, area: Extent | None = None) -> Iterator[Extent]:
    """Yield the extents in which two disks may differ: whole blocks, ascending.

    Bytes beyond the end of the shorter disk count as different.

    *area*: yield only the parts in this range, and load no nodes before it.

    Raises:
        ValueError: the block sizes differ.
    """
    if left.record.block_size != right.record.block_size:
        raise ValueError("the disks have different block sizes")
    size, unit = max(left.size, right.size), left.record.block_size
    start, end = (0, size) if area is None else (area.start, min(area.end, size))
    numbers = differing_blocks(left, right, start // unit)
    near = takewhile(lambda block: block * unit < end, numbers)
    blocks = (Extent(block * unit, unit) for block in near)
    ends = between(min(left.size, right.size), size)
    return clip(coalesce([*blocks, *ends]), start, end)
