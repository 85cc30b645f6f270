"""A large disk without an image file: its blocks are drawn from a small pool in memory."""

import random
from array import array
from collections.abc import Sequence
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.reasons import FullReason
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into
from tools.bench.content import BLOCK, Content

_POOL: Final = 1024
"""Number of different blocks: half text, half random bytes. A restore decodes each occurrence."""


class PooledDisk:
    """A source of *size* bytes, all of them data."""

    is_local = True

    def __init__(self, size: int, seed: str) -> None:
        content = Content(seed)
        self._pool = [content.block("text" if n % 2 else "random") for n in range(_POOL)]
        self._numbers = array("H", random.Random(seed).choices(range(_POOL), k=size // BLOCK))

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self._numbers) * BLOCK

    def rewrite(self, blocks: Sequence[int]) -> None:
        """Give each of *blocks* another content. A second time restores the first content."""
        for block in blocks:
            self._numbers[block] ^= 2  # the same kind of content

    def changed(self, since: Since) -> Sequence[Extent]:
        raise ChangeTrackingInvalid("the disk has no change list", FullReason.NO_LIST)

    def allocated(self) -> Sequence[Extent]:
        return [Extent(0, self.size)]

    def read(self, extent: Extent) -> bytes:
        first, skip = divmod(extent.start, BLOCK)
        numbers = self._numbers[first : -(-extent.end // BLOCK)]
        return b"".join(map(self._pool.__getitem__, numbers))[skip : skip + extent.length]

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing: the disk changes only between points."""

    def close(self) -> None:
        """Do nothing: the disk is used for several points."""
