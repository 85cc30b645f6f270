"""Blocks of the base that hold data where the disk has none now (docs/decisions/0017)."""

from collections.abc import Iterable, Iterator

from cbtfs.core.extent import Extent, clip, complement
from cbtfs.reader import Disk


def discarded(base: Disk, allocated: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Extents of blocks in which *base* has other bytes than zeros outside of *allocated*.

    Whole blocks, clipped to the disk's *size*. A block that is a hole in part counts only if the
    base has data in that part: that is read from the repository, not from the source.

    Raises:
        ChunkMissing, DataCorrupt: the base cannot be read there.
    """
    block = base.record.block_size
    tree = base.tree()
    whole: list[tuple[int, int]] = []
    parts: dict[int, list[Extent]] = {}
    for hole in complement(allocated, size):
        first = -(-hole.start // block)
        end = -(-hole.end // block) if hole.end == size else hole.end // block
        if first < end:
            whole.append((first, end))
        for number in {hole.start // block, (hole.end - 1) // block}:
            if not first <= number < end:
                part = clip([hole], number * block, (number + 1) * block)
                parts.setdefault(number, []).extend(part)
    numbers = list(tree.data_blocks_in(whole))
    edges = [(number, number + 1) for number in sorted(parts)]
    numbers += (
        number
        for number in tree.data_blocks_in(edges)
        if any(_has_data(base, part) for part in parts[number])
    )
    return clip((Extent(n * block, block) for n in sorted(numbers)), 0, size)


def _has_data(base: Disk, part: Extent) -> bool:
    return bytes(base.read(part.start, part.length)).strip(b"\0") != b""
