"""Points of fake disks, and direct manipulations of a repository."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import ingest_point
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource, Since
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.repository import Repository, reading, writing
from tests.make_points import BLOCK, EPOCH, read_image
from tests.source.fake import FakeDisk, FakeSnapshot

BREAK_AFTER: Final = 3 * BLOCK
"""Bytes that a broken source returns before it fails."""


def ingest(
    path: Path,
    sources: Mapping[str, DiskSource],
    *,
    vm: str = "vm",
    want: Want = "auto",
    change_ids: Mapping[str, str] | None = None,
    lock_wait: float = 0.0,
) -> Manifest:
    """Open the repository at *path*, take one point of *sources* by label, and close it."""
    with writing(path, lock_wait=lock_wait) as repository:
        return ingest_into(repository, sources, vm=vm, want=want, change_ids=change_ids)


def ingest_into(
    repository: Repository,
    sources: Mapping[str, DiskSource],
    *,
    vm: str = "vm",
    want: Want = "auto",
    change_ids: Mapping[str, str] | None = None,
    options: PointOptions | None = None,
) -> Manifest:
    """Take one point; *options* replace *want*.

    *change_ids* by label replace the change IDs of the snapshots.
    """
    inputs = [
        DiskInput(label, source, label, change_id=_change_id(label, source, change_ids or {}))
        for label, source in sources.items()
    ]
    objects = repository.object_writer()
    try:
        return ingest_point(
            repository, objects, VmInput(vm), inputs, options or PointOptions(EPOCH, want)
        )
    finally:
        objects.close()


def _change_id(label: str, source: DiskSource, given: Mapping[str, str]) -> str | None:
    own = source.change_id if isinstance(source, FakeSnapshot) else None
    return given.get(label, own)


class Untracked(WrappedSource):
    """A source without a change tracker."""

    def changed(self, since: Since) -> Sequence[Extent]:
        raise ChangeTrackingInvalid("no change list", FullReason.NO_LIST)


class Breaking(WrappedSource):
    """Fails permanently after a number of bytes."""

    def __init__(self, source: DiskSource, error: Exception, after: int = BREAK_AFTER) -> None:
        super().__init__(source)
        self._error = error
        self._left = after

    def read(self, extent: Extent) -> bytes | memoryview:
        self._left -= extent.length
        if self._left < 0:
            raise self._error
        return self._source.read(extent)


def broken(source: DiskSource, after: int = BREAK_AFTER) -> Breaking:
    return Breaking(source, SourceUnavailable("the cable is out"), after)


def with_list(
    source: DiskSource, extents: Sequence[tuple[int, int]], since: PointId | None = None
) -> ListedSource:
    """Return *source* with a change list of (start, length) pairs since *since*.

    None: since the last committed point.
    """
    return ListedSource(source, ChangeList(tuple(extents), since), since)


def disk_of(content: bytes) -> FakeDisk:
    """Return a fake disk with that content."""
    disk = FakeDisk(len(content))
    disk.write(0, content)
    return disk


def forget(path: Path, point: PointId) -> None:
    """Forget a point like the command: rename its manifest."""
    (path / "points" / point).rename(path / "points" / f"{point}.forgotten")


def lose_catalog(path: Path) -> None:
    """Remove the catalog, if it exists."""
    if (path / "catalog").exists():
        shutil.rmtree(path / "catalog")


def copy_catalog(path: Path, copy: Path) -> None:
    """Copy the catalog to *copy*."""
    shutil.copytree(path / "catalog", copy, dirs_exist_ok=True)


def put_back_catalog(path: Path, copy: Path) -> None:
    """Replace the catalog by its copy at *copy*."""
    lose_catalog(path)
    shutil.copytree(copy, path / "catalog")


def packs(path: Path) -> dict[str, bytes]:
    """Return the content of the packs by file name."""
    return {file.name: file.read_bytes() for file in path.glob("packs/*/*")}


def points(path: Path) -> dict[str, bytes]:
    """Return the content of the files in points/ by name."""
    return {file.name: file.read_bytes() for file in (path / "points").iterdir()}


def read_disk(path: Path, disk: DiskRecord) -> bytes:
    """Open the repository and return all bytes of one disk."""
    with reading(path) as repository:
        return read_image(repository, disk)


def blocks_of(content: bytes) -> list[bytes]:
    """Return the blocks of a disk, the last one padded with zeros."""
    return [content[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(content), BLOCK)]


def data_blocks(content: bytes) -> int:
    return sum(any(block) for block in blocks_of(content))
