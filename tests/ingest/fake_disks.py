"""Taking points of fake disks, and what tests do to a repository behind its back."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import DiskInput, VmInput, take_point
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource, Since
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.repository import Repository, reading, writing
from tests.make_points import BLOCK, EPOCH, read_image
from tests.source.fake import FakeDisk, FakeSnapshot

BREAK_AFTER: Final = 3 * BLOCK
"""How many bytes a source that breaks has given by then."""


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
) -> Manifest:
    """Take one point; a snapshot's own change ID is recorded where none is given."""
    inputs = [
        DiskInput(label, source, label, change_id=_change_id(label, source, change_ids or {}))
        for label, source in sources.items()
    ]
    objects = repository.object_writer()
    try:
        return take_point(repository, objects, VmInput(vm), inputs, moment=EPOCH, want=want)
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
    """Fails for good once it has given so many bytes."""

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
    """*source* with a list of (start, length), since the last committed point or *since*."""
    return ListedSource(source, ChangeList(tuple(extents), since), since)


def disk_of(content: bytes) -> FakeDisk:
    """A fake disk that holds *content*."""
    disk = FakeDisk(len(content))
    disk.write(0, content)
    return disk


def forget(path: Path, point: PointId) -> None:
    """Forget a point as the verb does: its manifest gets another name."""
    (path / "points" / point).rename(path / "points" / f"{point}.forgotten")


def lose_catalog(path: Path) -> None:
    """Remove the catalog, if it is not lost already."""
    if (path / "catalog").exists():
        shutil.rmtree(path / "catalog")


def copy_catalog(path: Path, copy: Path) -> None:
    """Keep a copy of the catalog at *copy*."""
    shutil.copytree(path / "catalog", copy, dirs_exist_ok=True)


def put_back_catalog(path: Path, copy: Path) -> None:
    """Let the catalog be the copy that was kept at *copy*."""
    lose_catalog(path)
    shutil.copytree(copy, path / "catalog")


def packs(path: Path) -> dict[str, bytes]:
    """The repository's packs by name."""
    return {file.name: file.read_bytes() for file in path.glob("packs/*/*")}


def points(path: Path) -> dict[str, bytes]:
    """What stands in points/, by name."""
    return {file.name: file.read_bytes() for file in (path / "points").iterdir()}


def read_disk(path: Path, disk: DiskRecord) -> bytes:
    """All bytes of one disk, from a repository that is opened for it."""
    with reading(path) as repository:
        return read_image(repository, disk)


def blocks_of(content: bytes) -> list[bytes]:
    """The blocks of a disk, the last one padded with zeros."""
    return [content[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(content), BLOCK)]


def data_blocks(content: bytes) -> int:
    return sum(any(block) for block in blocks_of(content))
