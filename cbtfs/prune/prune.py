"""Prune: marks live objects from all roots, drops dead ones, rewrites sparse packs, removes packs.

Its order makes a prune safe to interrupt, and possible on a full disk. All live objects are
resolved before anything is removed. Packs without live objects are removed before a new pack is
written. A new pack is durable and in the catalog before the packs that it replaces are removed. The
catalog drops an object before its pack is removed. Exception: without space to write the catalog,
packs without live objects are removed first, and a catch-up completes an interrupted prune.
"""

import logging
import resource
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from cbtfs.core.ids import DiskId, PackId, PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
from cbtfs.liveness import Marker
from cbtfs.prune.result import PruneResult, StartProgress, no_progress
from cbtfs.prune.rewrite import Rewriter, least_bytes
from cbtfs.prune.select import PackSelection, PackUse, PruneLimits, select
from cbtfs.prune.shared import SharedPrune
from cbtfs.prune.space import Space, take_step
from cbtfs.prune.survey import Survey, survey_packs
from cbtfs.prune.sweep import LARGE, SMALL, sweep
from cbtfs.store.backend.layout import rekey
from cbtfs.store.catalog.update import Update
from cbtfs.store.file_indexes import FileIndexes
from cbtfs.store.missing import refuse_missing
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.pins import load_pins, pins_by_point, remove_leftovers
from cbtfs.store.repository import Repository
from cbtfs.store.reserve import catalog_bytes, is_low

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _PointsByUse:
    """The points of a repository, by whether their objects must stay."""

    living: list[Manifest]
    leased: set[PointId]
    dead: dict[PointId, Manifest]
    """Forgotten points without a lease and without a pin."""


def prune(
    repository: Repository,
    limits: PruneLimits,
    *,
    is_dry_run: bool = False,
    without: Collection[PointId] = (),
    start_progress: StartProgress = no_progress,
    pack_bytes: int = PACK_BYTES,
    patience: float = 0.0,
) -> PruneResult:
    """Reclaim the space of objects that no point references.

    A dry run treats the points in *without* as forgotten. With shared writers, packs that other
    runs may use are deleted by a later prune unless these runs end within *patience* seconds.

    Raises:
        DataCorrupt: an object that a point references is missing or corrupt; nothing was removed.
        ManifestsMissing: a manifest is missing, so that its point's objects are unknown.
    """
    refuse_missing(repository)
    if repository.shared is not None:
        shared = SharedPrune(repository, repository.shared, limits, start_progress, pack_bytes)
        return shared.expected(without) if is_dry_run else shared.run(patience)
    if not is_dry_run:
        remove_leftovers(repository.path)
    _allow_many_files()
    pinned = pins_by_point(load_pins(repository.path))
    with repository.point_files.claimed() as claimed:
        dead = claimed - pinned.keys()
        points = _load_points(repository, dead, without if is_dry_run else ())
        refuse_missing(repository)  # points/ may have lost files before it was listed.
        living, survey = _mark(repository, points, start_progress)
        old = set[PackId]()
        if limits.rekeys:
            old = repository.packs.of_older_epochs(pack.id for pack in survey.packs)
        chosen = select(survey.packs, limits, old)
        space = Space(repository.path)
        if is_dry_run:
            return _expected(points, survey, chosen, space, pack_bytes)
        steps = Rewriter(repository, space, pack_bytes=pack_bytes)
        if space.is_short_for_catalog:
            steps.remove(chosen.removed)
            space.wait_for(catalog_bytes(repository.path))
        with start_progress("dropping", survey.dead_objects) as advance:
            batch = SMALL if is_low(repository.path) else LARGE
            sweep(repository.catalog, living.marked, advance, batch)
        total = sum(pack.live_bytes for pack in chosen.rewritten)
        with start_progress("rewriting", total) as advance:
            repository.catalog.update(lambda update: _drop_packs(update, chosen.removed))
            steps.remove(chosen.removed)
            steps.rewrite(chosen.rewritten, advance)
        gone = _superseded(points)
        repository.remove_forgotten(gone)
        with FileIndexes(repository.path) as indexes:
            indexes.keep({manifest.point for manifest in points.living})
    result = _result(points, survey, steps, len(gone))
    return _rekeyed(repository, result) if limits.rekeys else result


def _rekeyed(repository: Repository, result: PruneResult) -> PruneResult:
    """Encrypt files of older key epochs again, after the packs; count what is left."""
    files = rekey(repository.path)
    left = repository.packs.of_older_epochs(repository.packs.ids())
    return replace(result, rekeyed_files=files, old_packs=len(left))


def _allow_many_files() -> None:
    """Raise the limit of descriptors: each claimed point takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _load_points(
    repository: Repository, dead: set[PointId], without: Collection[PointId]
) -> _PointsByUse:
    folder = repository.points
    leased = folder.forgotten_ids() - dead
    retained = folder.ids()
    living = [folder.read_manifest(point) for point in retained - {*without}]
    living += [folder.read_forgotten(point) for point in leased]
    known = {}
    for point in dead:
        try:
            known[point] = folder.read_forgotten(point)
        except (DataCorrupt, PointNotFound) as exc:
            log.warning("%s; the forgotten point is kept because its disks are unknown", exc)
    for point in retained & {*without}:
        known[point] = folder.read_manifest(point)
    living.sort(key=lambda manifest: (manifest.vm.id, manifest.order))
    return _PointsByUse(living, leased, known)


def _mark(
    repository: Repository, points: _PointsByUse, start_progress: StartProgress
) -> tuple[Marker, Survey]:
    """Mark the objects of living points, and survey the packs."""
    with repository.catalog.view() as view:
        packs = view.packs().keys()
    living, forgotten = (Marker(repository.catalog, packs) for _ in range(2))
    total = sum(disk.size for manifest in points.living for disk in manifest.disks)
    with start_progress("marking", total) as advance:
        try:
            living.mark(points.living, advance)
        except (ChunkMissing, DataCorrupt) as exc:
            raise DataCorrupt(
                f"nothing was removed, because a needed object is unreadable: {exc}; "
                "run check, then repair, or forget that point"
            ) from exc
    for manifest in points.dead.values():
        for disk in manifest.disks:
            try:
                forgotten.mark_disk(disk)
            except (ChunkMissing, DataCorrupt):
                continue  # An earlier prune removed it.
    with repository.catalog.view() as view:
        signs = repository.settings.has_signatures
        return living, survey_packs(view, living.marked, forgotten.marked, signs=signs)


def _drop_packs(update: Update, packs: Iterable[PackUse]) -> None:
    for pack in packs:
        update.drop_pack(pack.number)


def _superseded(points: _PointsByUse) -> list[PointId]:
    """Return dead points whose manifests are not needed any more.

    The newest manifest of each disk stays: it is the base of a change list that names no point.
    """
    newest: dict[DiskId, int] = {}
    for manifest in (*points.living, *points.dead.values()):
        for disk in manifest.disks:
            newest[disk.id] = max(newest.get(disk.id, 0), manifest.order)
    return [
        point
        for point, manifest in points.dead.items()
        if all(newest[disk.id] > manifest.order for disk in manifest.disks)
    ]


def _unused(survey: Survey, removed: Iterable[PackUse]) -> int:
    gone = {pack.number for pack in removed}
    return sum(pack.unused_bytes for pack in survey.packs if pack.number not in gone)


def _expected(
    points: _PointsByUse, survey: Survey, chosen: PackSelection, space: Space, pack_bytes: int
) -> PruneResult:
    rewritten, postponed = _expected_steps(chosen, space, pack_bytes)
    removed = (*chosen.removed, *rewritten)
    rewritten_bytes = sum(pack.used_bytes for pack in rewritten)
    return PruneResult(
        True,
        len(points.living),
        len(points.leased),
        sum(pack.size for pack in survey.packs),
        sum(pack.size for pack in removed) - rewritten_bytes,
        _unused(survey, removed),
        rewritten_bytes,
        survey.dead_objects,
        survey.dead_bytes,
        survey.shared_objects,
        survey.shared_bytes,
        len(removed),
        len(_superseded(points)),
        (),
        *_postponed_counts(postponed, space),
    )


def _expected_steps(
    chosen: PackSelection, space: Space, pack_bytes: int
) -> tuple[list[PackUse], list[PackUse]]:
    """Return the packs that a prune would rewrite, and those that it would postpone."""
    remaining = deque(chosen.rewritten)
    free = space.free + sum(pack.size for pack in chosen.removed)
    done: list[PackUse] = []
    while step := take_step(remaining, free, space.catalog, pack_bytes):
        done += step
        free += sum(pack.unused_bytes for pack in step)
    return done, [*remaining]


def _postponed_counts(packs: Sequence[PackUse], space: Space) -> tuple[int, int, int]:
    freed = sum(pack.unused_bytes for pack in packs)
    return len(packs), freed, least_bytes(packs, space.catalog)


def _result(points: _PointsByUse, survey: Survey, steps: Rewriter, forgotten: int) -> PruneResult:
    size = sum(pack.size for pack in survey.packs)
    freed = steps.removed_bytes - steps.written_bytes
    used = sum(pack.used_bytes for pack in survey.packs)
    return PruneResult(
        False,
        len(points.living),
        len(points.leased),
        size,
        freed,
        max(size - freed - used, 0),
        steps.written_bytes,
        survey.dead_objects,
        survey.dead_bytes,
        survey.shared_objects,
        survey.shared_bytes,
        steps.removed_packs,
        forgotten,
        tuple(steps.damaged),
        *_postponed_counts(steps.postponed, steps.space),
    )
