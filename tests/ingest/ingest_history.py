"""Oracle of random histories: the points that the repository must contain."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from cbtfs.core.extent import Extent, clip
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Counts, DiskRecord, IngestKind, Manifest
from cbtfs.ingest.plan import Want
from cbtfs.source.base import DiskSource
from tests.ingest.fake_disks import Untracked, blocks_of, with_list
from tests.make_points import BLOCK
from tests.source.fake import FakeDisk, FakeSnapshot

Mode = Literal["tracked", "digest", "listed", "over", "wrong", "since base", "since another"]
"""Kind of change list that a run gets, and whether the list is correct."""

NOWHERE: Final = PointId("0" * 32)


class Kept(NamedTuple):
    """One point, and the snapshots of its disks."""

    manifest: Manifest
    shots: Mapping[str, FakeSnapshot]


@dataclass
class Machine:
    """One VM: its disks, and all points that were ever committed."""

    disks: dict[str, FakeDisk]
    points: list[Kept] = field(default_factory=list)
    forgotten: set[PointId] = field(default_factory=set)
    doubted: set[PointId] = field(default_factory=set)
    """Points after which the catalog may have lost a later one."""

    @property
    def retained(self) -> list[Kept]:
        return [kept for kept in self.points if kept.manifest.point not in self.forgotten]

    def base(self, label: str) -> Kept | None:
        """Return the newest retained point with the disk."""
        return newest_with(self.retained, label)

    def last(self, label: str) -> Kept | None:
        """Return the newest point with the disk, even if it is forgotten."""
        return newest_with(self.points, label)

    def others(self, label: str) -> list[PointId]:
        """Return points that a change list may start from by mistake."""
        base = self.base(label)
        ids = [kept.manifest.point for kept in self.points]
        return [NOWHERE, *(i for i in ids if base is None or i != base.manifest.point)]

    def source(self, label: str, shot: FakeSnapshot, mode: Mode, rnd: random.Random) -> DiskSource:
        """Return the source of the disk at *shot* for a run in *mode*."""
        base, last = self.base(label), self.last(label)
        disk = self.disks[label]
        match mode:
            case "tracked":
                return shot
            case "digest":
                return Untracked(shot)
            case "listed":
                return with_list(shot, pairs(written(disk, shot, last)))
            case "over":
                return with_list(shot, over_reported(written(disk, shot, last), shot.size, rnd))
            case "wrong":
                return with_list(shot, [*pairs(written(disk, shot, last)), (shot.size, 1)])
            case "since base" if base is not None:
                return with_list(shot, pairs(written(disk, shot, base)), base.manifest.point)
            case _:
                return with_list(shot, [], rnd.choice(self.others(label)))

    def expected_kind(self, label: str, mode: Mode, want: Want) -> IngestKind:
        """Return the kind of ingest that the rules for bases require."""
        base = self.base(label)
        if base is None or want == "full" or mode in ("digest", "wrong", "since another"):
            return "full"
        is_listed = mode in ("listed", "over")
        is_last = self.last(label) is base and base.manifest.point not in self.doubted
        return "full" if is_listed and not is_last else "incremental"


def newest_with(points: Sequence[Kept], label: str) -> Kept | None:
    return next((kept for kept in reversed(points) if label in kept.shots), None)


def written(disk: FakeDisk, shot: FakeSnapshot, kept: Kept | None) -> list[Extent]:
    """Return the extents that were written after the point *kept*."""
    number = 0 if kept is None else shot_of(disk, kept)
    return list(clip(disk.written_since(number), 0, shot.size))


def shot_of(disk: FakeDisk, kept: Kept) -> int:
    return next((s.number for s in kept.shots.values() if s.is_of(disk)), 0)


def pairs(extents: Iterable[Extent]) -> list[tuple[int, int]]:
    return [(extent.start, extent.length) for extent in extents]


def over_reported(
    extents: Sequence[Extent], size: int, rnd: random.Random
) -> list[tuple[int, int]]:
    """Return *extents* enlarged, duplicated, shuffled, and with unchanged extents added."""
    grown = [
        Extent(max(e.start - rnd.randint(0, 900), 0), e.length + rnd.randint(900, 3000))
        for e in extents
    ]
    invented = [Extent(rnd.randrange(size), rnd.randint(1, 9000)) for _ in range(3) if size]
    reported = pairs(clip([*extents, *grown, *invented], 0, size))
    rnd.shuffle(reported)
    return reported


def counts_of(shot: FakeSnapshot, before: bytes, known: set[bytes]) -> Counts:
    """Return the expected counts of an ingest that fetched shot.fetched, with the base *before*.

    The function adds new blocks to *known*, the blocks in the repository.
    """
    blocks, parents = blocks_of(shot.content), blocks_of(before)
    numbers = {n for e in shot.fetched for n in range(e.start // BLOCK, -(-e.end // BLOCK))}
    zero = {n for n in numbers if not any(blocks[n])}
    same = {n for n in numbers if n < len(parents) and blocks[n] == parents[n]}
    new = {blocks[n] for n in numbers - zero} - known
    known |= new
    return Counts(
        read_bytes=sum(extent.length for extent in shot.fetched),
        written_blocks=len(numbers - zero - same),
        zero_blocks=len(zero),
        new_bytes=len(new) * BLOCK,
    )


def without_stored(disk: DiskRecord) -> Counts:
    """Return the counts of a disk without the stored bytes, which depend on compression."""
    c = disk.counts
    return Counts(c.read_bytes, c.written_blocks, c.zero_blocks, c.new_bytes)
