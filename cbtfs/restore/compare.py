"""Whether the blocks of a target have the digests that they must have."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Protocol

from cbtfs import native
from cbtfs.core.ids import DIGEST_BYTES
from cbtfs.errors import TargetFailed
from cbtfs.restore.expected import Expected
from cbtfs.store.digest import Digester


class Compared(Protocol):
    """A target whose content is compared."""

    name: str
    files: tuple[int, int] | None
    """Descriptors for compiled code; None: only read() has the content."""

    def read(self, offset: int, data: memoryview) -> None:
        """Fill *data* from *offset*."""


def matching(
    target: Compared, items: Sequence[Expected], unit: int, digester: Digester, buffer: memoryview
) -> list[Sequence[int]]:
    """Return for each of *items* whether each of its blocks in *target* has its digest: 1 or 0.

    *unit* is the block size. *buffer* has space for each of *items* and begins at a page.

    Raises:
        OSError: a read failed.
        TargetFailed: the target ends within one of *items*.
    """
    areas, digests, counts = array("Q"), [], []
    for item in items:
        edges, start = item.edges(unit), item.extent.start
        counts.append(len(edges) - 1)
        digests.append(item.digests_of(counts[-1]))
        head = edges[1] if start % unit else 0  # only the last block of an area may be short
        for first, end in pairwise(sorted({0, head, item.extent.length})):
            areas.extend((start + first, end - first))
    wanted = b"".join(digests)
    if target.files is None or not native.has_blake3():
        matches: Sequence[int] = [*_read_and_compare(target, areas, unit, wanted, digester, buffer)]
    else:
        try:
            matches = native.matching_in_file(
                target.files, areas, unit, wanted, buffer, digester.key
            )
        except EOFError:
            raise TargetFailed(f"{target.name} became shorter while it was restored") from None
    return [matches[first:end] for first, end in pairwise(accumulate(counts, initial=0))]


def _read_and_compare(
    target: Compared,
    areas: Sequence[int],
    unit: int,
    digests: bytes,
    digester: Digester,
    buffer: memoryview,
) -> Iterator[int]:
    at = 0
    for offset, length in zip(areas[::2], areas[1::2], strict=True):
        data, end = buffer[:length], at - (-length // unit) * DIGEST_BYTES
        target.read(offset, data)
        yield from digester.matching_blocks(data, unit, digests[at:end])
        at = end
