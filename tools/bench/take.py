"""Points of a disk image, taken in this process, one after the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cbtfs.ingest.point import DiskInput, VmInput, take_point
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import Repository, create_repository, writing
from cbtfs.store.settings import new_settings
from tools.bench.content import BLOCK
from tools.bench.programs import run

VM: Final = "vm"
DISK: Final = "disk"
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MEMORY: Final = Path("/dev/shm")
_MEMORY_BYTES: Final = 4 << 30
"""Of room that there must be, so that a repository is made there."""


@contextmanager
def in_memory(path: Path) -> Iterator[Path]:
    """A place for a repository that comes to *path*: in memory, if there is room.

    Thousands of points are thousands of flushes; what is measured is what they leave.
    """
    room = os.statvfs(_MEMORY) if _MEMORY.is_dir() else None
    if room is None or room.f_bavail * room.f_frsize < _MEMORY_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cbtfs-bench-", dir=_MEMORY) as aside:
        yield Path(aside, "repository")
        run(["cp", "-a", f"{aside}/repository", path])
    with writing(path):
        pass  # its state files are others now, for all that a catalog can tell


def new_repository(path: Path) -> Path:
    create_repository(path, new_settings(BLOCK, level=1))
    return path


@contextmanager
def capturing(path: Path, image: Path) -> Iterator[Take]:
    """A way to take points of *image*: in full, or by the blocks that changed."""
    with writing(path) as repository:
        yield Take(repository, image)


class Take:
    """Takes one point of an image after the other, a minute apart."""

    def __init__(self, repository: Repository, image: Path) -> None:
        self._repository = repository
        self._image = image
        with repository.catalog.view() as view:
            self._taken = len(view.point_ids())

    def __call__(self, changed: Sequence[int] | None) -> None:
        image = ImageSource(self._image)
        listed = None
        if changed is not None:
            listed = ListedSource(image, ChangeList(tuple((b * BLOCK, BLOCK) for b in changed)))
        objects = self._repository.object_writer()
        try:
            take_point(
                self._repository,
                objects,
                VmInput(VM),
                [DiskInput(DISK, listed or image, identity=DISK)],
                moment=_EPOCH + timedelta(minutes=self._taken),
                want="auto" if changed is None else "incremental",
            )
        finally:
            objects.close()
            image.close()
        self._taken += 1
