"""A disk image that a guest modifies between runs, with the digest of each version."""

import hashlib
import os
import random
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent, clip

SIZE: Final = 600_001
"""Size in bytes: three leaves of 4 KiB blocks, and no multiple of a block or sector."""


class GuestImage:
    """A disk image at *path*. It must not be changed while a run reads it."""

    def __init__(self, path: Path, rnd: random.Random) -> None:
        self.path = path
        self._rnd = rnd
        self._written: list[list[Extent]] = []
        self.digests: list[str] = []
        """SHA-256 of the image at each version."""
        path.write_bytes(rnd.randbytes(SIZE))
        self._keep([Extent(0, SIZE)])

    @property
    def version(self) -> int:
        return len(self.digests) - 1

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def change(self) -> None:
        """Create the next version by writes, trims and, in a fifth of all cases, a new size."""
        rnd, written = self._rnd, list[Extent]()
        if rnd.random() < 0.2:
            before, size = self.size, rnd.choice([SIZE, SIZE - 5000, SIZE // 2, SIZE + 70_000])
            os.truncate(self.path, size)
            if size < before:
                written.append(Extent(size, before - size))
        with self.path.open("r+b") as file:
            for _ in range(rnd.randint(1, 12)):
                at = rnd.randrange(self.size)
                length = min(rnd.randint(1, 20_000), self.size - at)
                file.seek(at)
                file.write(bytes(length) if rnd.random() < 0.3 else rnd.randbytes(length))
                written.append(Extent(at, length))
        self._keep(written)

    def _keep(self, written: list[Extent]) -> None:
        self._written.append(written)
        self.digests.append(hashlib.sha256(self.path.read_bytes()).hexdigest())

    def changed_since(self, version: int) -> list[Extent]:
        """Return the extents that may have changed since *version*."""
        parts = self._written[version + 1 :]
        return list(clip((e for part in parts for e in part), 0, self.size))
