"""Free space of the repository's file system, and how much of it a prune may use."""

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cbtfs.prune.select import PackUse
from cbtfs.store.reserve import catalog_bytes, stored_catalog_bytes

RETURN_SECONDS: Final = 5.0
"""How long removed packs may take to become free space: workers of a mount close them within a
second, and file systems that free blocks in the background take a little longer."""
_PAUSE_SECONDS: Final = 0.05
_PAGE_BYTES: Final = 4096
_SLACK_BYTES: Final = 256 << 10
"""For a new directory, the file system's own records, and rounding."""
_OVERHEAD_PAGES: Final = 64
"""Inner pages of the catalog's trees, and its list of free pages."""


def step_bytes(packs: Sequence[PackUse], catalog: int) -> int:
    """Free space that it takes to rewrite *packs* into one new pack.

    A transaction of the catalog, whose file has *catalog* bytes, writes a copy of every page that
    it touches: at most one for each object that moves, and never more than there are.
    """
    objects = sum(pack.live_objects for pack in packs)
    pages = min((objects + _OVERHEAD_PAGES) * _PAGE_BYTES, catalog)
    return sum(pack.used_bytes for pack in packs) + pages + _SLACK_BYTES


def take_step(
    left: deque[PackUse], free: int, catalog: int, pack_bytes: int
) -> tuple[PackUse, ...]:
    """Take from *left* the next packs to rewrite into one pack of about *pack_bytes*.

    In the order of *left*, but without those that do not fit into *free* bytes; these stay in
    *left*, in their order. None fits: the result is empty.
    """
    step: list[PackUse] = []
    skipped: list[PackUse] = []
    used = 0
    while left and used < pack_bytes:
        pack = left.popleft()
        if step_bytes([*step, pack], catalog) > free:
            skipped.append(pack)
            continue
        step.append(pack)
        used += pack.used_bytes
    left.extendleft(reversed(skipped))
    return tuple(step)


class Space:
    """Free space, as this process can use it."""

    def __init__(self, path: Path) -> None:
        """*path* is the repository's."""
        self._path = path
        self._hidden = 0
        self._expected = 0
        """Free bytes once every removed pack is closed everywhere."""
        self._removed = 0.0
        self.catalog = stored_catalog_bytes(path)
        """Size of the catalog's file when the prune began."""

    @property
    def free(self) -> int:
        """Bytes that can be written, as far as this is known."""
        found = os.statvfs(self._path)
        blocks = found.f_bavail if os.geteuid() else found.f_bfree  # Root may use what is reserved.
        return max(blocks * found.f_frsize - self._hidden, 0)

    @property
    def is_short_for_catalog(self) -> bool:
        """Whether a transaction of the catalog may fail for lack of space."""
        return self.free < catalog_bytes(self._path)

    def refused(self, free: int, wanted: int) -> None:
        """Count on less: *wanted* bytes did not fit where *free* were reported.

        A quota, or blocks that are reserved, do not show in what the file system reports. Half of
        *wanted* is tried next, and more once packs were removed.
        """
        less = max(free - wanted // 2, 0)
        self._hidden += less
        self._expected -= less

    def wrote(self, size: int) -> None:
        """Take into account that a pack of *size* bytes was written."""
        self._expected -= size

    def removed(self, before: int, size: int) -> None:
        """Expect *size* bytes more soon, where *before* were free: packs were just removed."""
        self._expected = max(self._expected, before) + size
        self._removed = time.monotonic()

    def wait_for(self, wanted: int) -> bool:
        """Wait until *wanted* bytes are free, while removed packs are still open somewhere.

        False if they are not once all are closed, or a few seconds after the last was removed.
        """
        while (free := self.free) < wanted:
            is_over = time.monotonic() - self._removed > RETURN_SECONDS
            if is_over or free >= self._expected:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True
