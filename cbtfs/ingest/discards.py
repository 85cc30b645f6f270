"""Find blocks with data in the base that are unallocated now (docs/decisions/0017)."""

from collections.abc import Iterable, Iterator

from cbtfs.core.extent import Extent, clip, complement
from cbtfs.reader import Disk


def discarded(base: Disk, allocated: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Return the blocks of *base* with data outside of *allocated*, clipped to *size*.

    A block that is only partly allocated is included if the base has data in the unallocated
    part; that part is read from the repository, not from the source.

    Raises:
        ChunkMissing, DataCorrupt: these blocks of the base cannot be read.
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
    """Return whether the base has data in *part*; True with a capture key, which cannot tell."""
    if not base.reader.can_read_content:
        return True
    return bytes(base.read(part.start, part.length)).strip(b"\0") != b""
