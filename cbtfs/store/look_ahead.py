"""Reads ahead of a disk in remote packs, along its block map."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cbtfs.core.blockmap import FANOUT
from cbtfs.errors import CbtfsError
from cbtfs.native import Leaf
from cbtfs.store.backend.tier import EXTENT

_FIRST: Final = 4
_NEXT: Final = 16
"""Extents that are fetched at a miss: the first time, and when it is where the last one ended."""
_LEAVES: Final = 256
"""Leaves that are searched for extents; a leaf of the usual size covers 4 MiB."""
_ASKED: Final = 1 << 12
"""Extents that are remembered, so that they are requested once."""


class LookAhead:
    """Requests the extents that a sequential reader of one disk needs next."""

    def __init__(
        self,
        leaf_at: Callable[[int], Leaf | None],
        leaves: int,
        fetch: Callable[[int, int, int], None],
    ) -> None:
        """*leaf_at* returns one of *leaves* leaves. *fetch* begins to fetch bytes of a pack.

        Its arguments are the number of the pack, offset and length.
        """
        self._leaf_at = leaf_at
        self._leaves = leaves
        self._fetch = fetch
        self._lock = threading.Lock()
        self._start = self._end = -1
        self._asked: set[tuple[int, int]] = set()

    def missed(self, index: int, slot: int) -> None:
        """Fetch ahead, as the block in *slot* of leaf *index* is not here."""
        if not self._lock.acquire(blocking=False):
            return  # Another thread does it.
        try:
            with suppress(CbtfsError):  # The reader of the block reports it.
                self._look(index, slot)
        finally:
            self._lock.release()

    def _look(self, index: int, slot: int) -> None:
        block = index * FANOUT + slot
        is_next = self._start <= block <= self._end
        if not is_next or len(self._asked) > _ASKED:
            self._asked.clear()
        self._start, left, wanted = block, _NEXT if is_next else _FIRST, set[tuple[int, int]]()
        last = min(index + _LEAVES, self._leaves)
        for at in range(block, last * FANOUT):
            self._end = at
            leaf = self._leaf_at(at // FANOUT)
            missing = None if leaf is None else leaf.wanted_bytes(at % FANOUT)
            if missing is None:
                continue
            pack, offset, length = missing
            wanted |= {(pack, n) for n in range(offset // EXTENT, -(-(offset + length) // EXTENT))}
            if len(wanted) > left:
                break
            for extent in sorted(wanted - self._asked):
                self._asked.add(extent)
                self._fetch(pack, extent[1] * EXTENT, 1)
