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

StartProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Callback with the name and the total of a step; its context is the callback for progress."""


def no_progress(step: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Report no progress."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class PointStats:
    """Sizes of one point in bytes."""

    manifest: Manifest
    logical_bytes: int
    data_bytes: int
    """Bytes in blocks that are not zeros."""
    changed_bytes: int
    """Bytes in blocks that hold data and differ from the parent's."""
    stored_bytes: int
    """Bytes that its ingest wrote."""
    freed_bytes: int
    """Bytes that a prune would free after only this point was forgotten."""
    hours: float | None
    """Hours since the previous point of the VM; None for the first."""

    @property
    def change_rate(self) -> float:
        """Share of the disks that changed, 0 to 1."""
        return self.changed_bytes / self.logical_bytes if self.logical_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Total sizes of the points in scope, in bytes."""

    rows: tuple[PointStats, ...]
    logical_bytes: int
    data_bytes: int
    distinct_bytes: int
    """Data bytes, counting each chunk once."""
    stored_bytes: int
    """Bytes of the frames of these chunks and of the block maps."""
    unique_bytes: int
    """Part of the stored bytes that only points in scope need."""
    shared_bytes: int
    """Part of the stored bytes that other points need, too."""
    pack_bytes: int
    """Size of all packs of the repository."""
    unused_bytes: int
    """Bytes in packs that no point needs."""
    key_epoch: int | None = None
    """Key epoch of new packs; None if the repository is not encrypted."""
    old_packs: int = 0
    """Packs that are encrypted under an older key epoch."""
    old_pack_bytes: int = 0
    """Size of these packs."""

    @property
    def deduplication(self) -> float:
        return self.data_bytes / self.distinct_bytes if self.distinct_bytes else 1.0

    @property
    def compression(self) -> float:
        return self.distinct_bytes / self.stored_bytes if self.stored_bytes else 1.0


def stats(
    repository: Repository,
    is_in_scope: Callable[[Manifest], bool] = lambda _: True,
    start_progress: StartProgress = no_progress,
) -> Stats:
    """Measure the points in scope, and the data that they share with other points.

    Raises:
        ChunkMissing: an object that a point needs is missing.
        DataCorrupt: a node does not match its digest.
    """
    with repository.catalog.view() as view:
        every = [point.manifest for point in points(view)]
    inside = [manifest for manifest in every if is_in_scope(manifest)]
    outside = [manifest for manifest in every if not is_in_scope(manifest)]
    total = sum(disk.size for manifest in every for disk in manifest.disks)
    with start_progress("points", 2 * total) as advance:
        owners = owners_of(repository.catalog, every, advance)
        with repository.catalog.view() as view:
            packs = view.packs()
        inner, outer = (Marker(repository.catalog, packs.keys()) for _ in range(2))
        inner.mark(inside, advance)
        outer.mark(outside, advance)
    owned: defaultdict[int, int] = defaultdict(int)
    distinct = stored = unique = used = 0
    with repository.catalog.view() as view:
        for number, (_, frame) in view.all_locations():
            size = frame.end - frame.offset
            owned[owners.of(number)] += size
            is_inside = inner.marked.has(number)
            is_outside = outer.marked.has(number)
            used += size if is_inside or is_outside else 0
            if is_inside:
                stored += size
                unique += 0 if is_outside else size
                distinct += frame.plain if frame.kind is Kind.CHUNK else 0
    freed = {manifest.point: owned[n] for n, manifest in enumerate(every, 1)}
    size = sum(record.size for record in packs.values())
    rows = _rows(inside, freed)
    old = repository.packs.of_older_epochs(record.id for record in packs.values())
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
        repository.packs.epoch,
        len(old),
        sum(record.size for record in packs.values() if record.id in old),
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
