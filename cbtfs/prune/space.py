"""Free space of the repository's file system that a prune may use."""

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cbtfs.prune.select import PackUse
from cbtfs.store.reserve import catalog_bytes, stored_catalog_bytes

RETURN_SECONDS: Final = 5.0
"""Maximum time until removed packs become free space: workers of a mount close them within a
second, and some file systems free blocks in the background."""
_PAUSE_SECONDS: Final = 0.05
_PAGE_BYTES: Final = 4096
_SLACK_BYTES: Final = 256 << 10
"""Margin for a new directory, records of the file system, and rounding."""
_OVERHEAD_PAGES: Final = 64
"""Inner pages of the catalog's trees, and its list of free pages."""


def step_bytes(packs: Sequence[PackUse], catalog: int) -> int:
    """Return the free space that a rewrite of *packs* into one new pack takes.

    A transaction of the catalog, whose file has *catalog* bytes, copies every page that it touches:
    at most one for each moved object, and at most all pages.
    """
    objects = sum(pack.live_objects for pack in packs)
    pages = min((objects + _OVERHEAD_PAGES) * _PAGE_BYTES, catalog)
    return sum(pack.used_bytes for pack in packs) + pages + _SLACK_BYTES


def take_step(
    remaining: deque[PackUse], free: int, catalog: int, pack_bytes: int
) -> tuple[PackUse, ...]:
    """Take the next packs to rewrite into one pack of about *pack_bytes* from *remaining*.

    The order is that of *remaining*. Packs that do not fit into *free* bytes stay there in their
    order. The result is empty if no pack fits.
    """
    step: list[PackUse] = []
    skipped: list[PackUse] = []
    used = 0
    while remaining and used < pack_bytes:
        pack = remaining.popleft()
        if step_bytes([*step, pack], catalog) > free:
            skipped.append(pack)
            continue
        step.append(pack)
        used += pack.used_bytes
    remaining.extendleft(reversed(skipped))
    return tuple(step)


class Space:
    """Free space that this process can use."""

    def __init__(self, path: Path) -> None:
        """*path* is that of the repository."""
        self._path = path
        self._hidden = 0
        self._expected = 0
        """Free bytes after all processes have closed the removed packs."""
        self._removed = 0.0
        self.catalog = stored_catalog_bytes(path)
        """Size of the catalog's file when the prune began."""

    @property
    def free(self) -> int:
        """Estimated number of bytes that can be written."""
        facts = os.statvfs(self._path)
        blocks = facts.f_bavail if os.geteuid() else facts.f_bfree  # Root may use reserved blocks.
        return max(blocks * facts.f_frsize - self._hidden, 0)

    @property
    def is_short_for_catalog(self) -> bool:
        """Whether a transaction of the catalog may run out of space."""
        return self.free < catalog_bytes(self._path)

    def refused(self, free: int, wanted: int) -> None:
        """Reduce the estimate: *wanted* bytes did not fit although *free* bytes were reported.

        The file system does not report a quota or reserved blocks. The next attempt uses half of
        *wanted*, and more after packs were removed.
        """
        hidden = max(free - wanted // 2, 0)
        self._hidden += hidden
        self._expected -= hidden

    def wrote(self, size: int) -> None:
        """Count a new pack of *size* bytes."""
        self._expected -= size

    def removed(self, before: int, size: int) -> None:
        """Expect *size* more free bytes than *before*, because packs were just removed."""
        self._expected = max(self._expected, before) + size
        self._removed = time.monotonic()

    def wait_for(self, wanted: int) -> bool:
        """Wait until *wanted* bytes are free, while other processes close removed packs.

        Return False if less is free after all are closed, or a few seconds after the last removal.
        """
        while (free := self.free) < wanted:
            is_over = time.monotonic() - self._removed > RETURN_SECONDS
            if is_over or free >= self._expected:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True
