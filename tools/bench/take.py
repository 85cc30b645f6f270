"""Take restore points of a disk image in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.base import DiskSource
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
"""Free space in /dev/shm that is required to create a repository there."""


@contextmanager
def in_memory(path: Path) -> Iterator[Path]:
    """Yield a path in /dev/shm if it has enough free space; copy the repository to *path* later.

    Thousands of points need thousands of flushes, and the rows measure only their result.
    """
    space = os.statvfs(_MEMORY) if _MEMORY.is_dir() else None
    if space is None or space.f_bavail * space.f_frsize < _MEMORY_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cbtfs-bench-", dir=_MEMORY) as aside:
        yield Path(aside, "repository")
        run(["cp", "-a", f"{aside}/repository", path])
    with writing(path):
        pass  # the state files are new inodes: update the catalog once


def new_repository(path: Path) -> Path:
    create_repository(path, new_settings(BLOCK, level=1))
    return path


@contextmanager
def capturing(path: Path, image: Path) -> Iterator[PointTaker]:
    """Yield a function that takes a point of *image*: full, or by a list of changed blocks."""
    with capturing_source(path, lambda: ImageSource(image)) as take:
        yield take


@contextmanager
def capturing_source(path: Path, source: Callable[[], DiskSource]) -> Iterator[PointTaker]:
    """Yield a function that takes a point of *source*: full, or by a list of changed blocks."""
    with writing(path) as repository:
        yield PointTaker(repository, source)


class PointTaker:
    """Callable that takes points of a disk; their times are one minute apart."""

    def __init__(self, repository: Repository, source: Callable[[], DiskSource]) -> None:
        self._repository = repository
        self._source = source
        with repository.catalog.view() as view:
            self._taken = len(view.point_ids())

    def __call__(self, changed: Sequence[int] | None) -> None:
        image = self._source()
        listed = None
        if changed is not None:
            listed = ListedSource(image, ChangeList(tuple((b * BLOCK, BLOCK) for b in changed)))
        objects = self._repository.object_writer()
        try:
            ingest_point(
                self._repository,
                objects,
                VmInput(VM),
                [DiskInput(DISK, listed or image, identity=DISK)],
                PointOptions(
                    _EPOCH + timedelta(minutes=self._taken),
                    "auto" if changed is None else "incremental",
                ),
            )
        finally:
            objects.close()
            image.close()
        self._taken += 1
