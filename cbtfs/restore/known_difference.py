"""The blocks in which two disks differ, with their locations, kept for a second pass."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.extent import Extent, clip
from cbtfs.core.manifest import DiskRecord
from cbtfs.reader import Reader
from cbtfs.restore.expected import Expected
from cbtfs.store.catalog.records import location_digest
from cbtfs.store.digest import node_content

_KEPT_BLOCKS: Final = 1 << 16
"""Blocks that are kept, 4 GiB of a disk: about 16 MiB of memory."""


_Located = tuple[int, tuple[bytes | None, ...]]
"""The first of some blocks of one leaf, and the encoded location of each, None for zeros."""


class KnownDifference:
    """The runs of blocks in which a disk differs from another one, kept while they are few.

    A second walk of the block maps would take as long as the first one: it visits too many nodes
    for the cache.
    """

    def __init__(
        self, reader: Reader, record: DiskRecord, runs: Callable[[], Iterator[tuple[int, int]]]
    ) -> None:
        """*runs* determines them: (first block, blocks), ascending."""
        self._reader = reader
        self._record = record
        self._determine = runs
        self._kept: list[_Located] = []
        self._blocks = 0
        self._is_complete = False

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs. Once all have been yielded, they are known."""
        for first, count in self._determine():
            self._blocks += count
            if self._blocks > _KEPT_BLOCKS:
                self._kept.clear()
            else:
                self._kept += self._located(first, first + count)
            yield first, count
        self._is_complete = self._blocks <= _KEPT_BLOCKS

    def _located(self, first: int, end: int) -> Iterator[_Located]:
        while first < end:
            leaf, slot = divmod(first, FANOUT)
            until = min(FANOUT, slot + end - first)
            node = self._reader.leaf_node(self._record, leaf)
            yield first, (None,) * (until - slot) if node is None else node.entries[slot:until]
            first += until - slot

    def expected(self) -> Iterator[Expected]:
        """Yield what the blocks must be, ascending, with their locations."""
        unit, again = self._record.block_size, () if self._is_complete else self._determine()
        located = (part for first, count in again for part in self._located(first, first + count))
        for first, entries in chain(self._kept if self._is_complete else (), located):
            digests = [None if entry is None else location_digest(entry) for entry in entries]
            extent = Extent(first * unit, len(entries) * unit)
            for part in clip([extent], 0, self._record.size):
                yield Expected(part, node_content(digests), entries=entries)
