"""Disks with a change tracker that omits some blocks, and their audited points."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from cbtfs.core.audit import Sampling
from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import ingest_point
from cbtfs.listing import Point, points
from cbtfs.source.base import DiskSource, Since
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.identity import new_id
from cbtfs.store.repository import reading, writing
from tests.ingest.fake_disks import disk_of
from tests.make_points import BLOCK, EPOCH
from tests.source.fake import FakeDisk, FakeSnapshot

ALL: Final = Sampling(1.0)
"""Every block of a small disk."""
FEW: Final = Sampling(0.001, least=4)
MOST: Final = Sampling(0.001, least=40)
"""40 of 50 blocks: finds at least 20 of 30 missed blocks, wherever they are."""


class Silent(WrappedSource):
    """A snapshot with a change list that always omits some blocks."""

    def __init__(self, shot: FakeSnapshot, hidden: Collection[int]) -> None:
        super().__init__(shot)
        self.shot = shot
        self._hidden = frozenset(hidden)

    def changed(self, since: Since) -> Sequence[Extent]:
        changed = self.shot.changed(since)
        blocks = {n for e in changed for n in range(e.start // BLOCK, -(-e.end // BLOCK))}
        size = self.size
        return [
            Extent(n * BLOCK, min(BLOCK, size - n * BLOCK)) for n in sorted(blocks - self._hidden)
        ]


def a_disk(blocks: int) -> FakeDisk:
    """Return a disk of distinct blocks, none of them zeros."""
    return disk_of(b"".join(n.to_bytes(4, "big") * (BLOCK // 4) for n in range(1, blocks + 1)))


def write_block(disk: FakeDisk, block: int, text: str) -> None:
    disk.write(block * BLOCK, text.encode())


def take(
    path: Path,
    *sources: tuple[str, DiskSource, FakeSnapshot],
    audit: Sampling | None = ALL,
    want: Want = "auto",
    run: str | None = None,
) -> Manifest:
    """Take one point of disks given as (label, source, snapshot that the source reads)."""
    inputs = [
        DiskInput(label, source, label, change_id=shot.change_id) for label, source, shot in sources
    ]
    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            options = PointOptions(EPOCH, want, audit, run=run or new_id())
            return ingest_point(repository, objects, VmInput("vm"), inputs, options)
        finally:
            objects.close()


def take_silent(
    path: Path,
    disk: FakeDisk,
    hidden: Collection[int] = (),
    *,
    audit: Sampling | None = ALL,
    want: Want = "auto",
    run: str | None = None,
) -> Manifest:
    """Take one point of a disk with a tracker that always omits the *hidden* blocks."""
    shot = disk.take_snapshot()
    return take(path, ("A", Silent(shot, hidden), shot), audit=audit, want=want, run=run)


def listed(path: Path) -> dict[PointId, Point]:
    """Return all points, oldest first."""
    with reading(path) as repository, repository.catalog.view() as view:
        return {point.manifest.point: point for point in points(view)}


def suspects(path: Path) -> set[PointId]:
    """Return the points that are listed as suspect."""
    return {name for name, point in listed(path).items() if point.suspect is not None}
