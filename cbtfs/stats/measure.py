"""Sizes and ratios of a repository, of one VM, or of one point."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from cbtfs.core.frame import Kind
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import parse_moment
from cbtfs.listing import points
from cbtfs.liveness import Marker
from cbtfs.stats.owners import owners_of
from cbtfs.store.repository import Repository

Announce = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def silent(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class PointStats:
    """What one point costs. Bytes."""

    manifest: Manifest
    logical_bytes: int
    data_bytes: int
    """Not zeros."""
    changed_bytes: int
    """Blocks that hold data and differ from the parent's."""
    stored_bytes: int
    """What its ingest wrote."""
    freed_bytes: int
    """What forgetting it alone, and a prune, would free."""
    hours: float | None
    """Since the point before it."""

    @property
    def change_rate(self) -> float:
        """The part of the disks that changed."""
        return self.changed_bytes / self.logical_bytes if self.logical_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What the points of a scope hold together. Bytes."""

    rows: tuple[PointStats, ...]
    logical_bytes: int
    data_bytes: int
    distinct_bytes: int
    """Of their data, each chunk once."""
    stored_bytes: int
    """The same and the block maps, compressed, as frames."""
    unique_bytes: int
    """Of the stored: what no point outside of the scope needs."""
    shared_bytes: int
    """Of the stored: what others need, too."""
    pack_bytes: int
    """All packs of the repository."""
    unused_bytes: int
    """In packs, and needed by no point."""

    @property
    def deduplication(self) -> float:
        return self.data_bytes / self.distinct_bytes if self.distinct_bytes else 1.0

    @property
    def compression(self) -> float:
        return self.distinct_bytes / self.stored_bytes if self.stored_bytes else 1.0


def stats(
    repository: Repository,
    is_in_scope: Callable[[Manifest], bool] = lambda _: True,
    announce: Announce = silent,
) -> Stats:
    """Measure the points that are in scope against all others.

    ChunkMissing or DataCorrupt if one does not resolve.
    """
    with repository.catalog.view() as view:
        every = [point.manifest for point in points(view)]
    mine = [manifest for manifest in every if is_in_scope(manifest)]
    rest = [manifest for manifest in every if not is_in_scope(manifest)]
    total = sum(disk.size for manifest in every for disk in manifest.disks)
    with announce("points", 2 * total) as advance:
        owners = owners_of(repository.catalog, every, advance)
        with repository.catalog.view() as view:
            packs = view.packs()
        ours, others = (Marker(repository.catalog, packs.keys()) for _ in range(2))
        ours.mark(mine, advance)
        others.mark(rest, advance)
    owned: defaultdict[int, int] = defaultdict(int)
    distinct = stored = unique = used = 0
    with repository.catalog.view() as view:
        for number, (_, frame) in view.all_locations():
            size = frame.end - frame.offset
            owned[owners.of(number)] += size
            is_mine = ours.marked.has(number)
            is_theirs = others.marked.has(number)
            used += size if is_mine or is_theirs else 0
            if is_mine:
                stored += size
                unique += 0 if is_theirs else size
                distinct += frame.plain if frame.kind is Kind.CHUNK else 0
    freed = {manifest.point: owned[n] for n, manifest in enumerate(every, 1)}
    size = sum(record.size for record in packs.values())
    rows = _rows(mine, freed)
    return Stats(
        tuple(rows),
        sum(row.logical_bytes for row in rows),
        sum(row.data_bytes for row in rows),
        distinct,
        stored,
        unique,
        stored - unique,
        size,
        max(size - used, 0),
    )


def _rows(manifests: Sequence[Manifest], freed: Mapping[PointId, int]) -> list[PointStats]:
    before: dict[str, Manifest] = {}
    rows = []
    for manifest in manifests:
        last = before.get(manifest.vm.id)
        gap = None if last is None else parse_moment(manifest.time) - parse_moment(last.time)
        before[manifest.vm.id] = manifest
        disks = manifest.of_kind("disk")
        rows.append(
            PointStats(
                manifest,
                sum(disk.size for disk in disks),
                sum(disk.data_bytes for disk in disks),
                sum(min(disk.counts.written_blocks * disk.block_size, disk.size) for disk in disks),
                sum(disk.counts.stored_bytes for disk in manifest.disks),
                freed[manifest.point],
                None if gap is None else gap.total_seconds() / 3600,
            )
        )
    return rows
