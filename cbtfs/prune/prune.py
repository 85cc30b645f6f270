"""Prune: mark from all roots, drop what is dead, rewrite what is mostly dead, unlink.

The order makes it safe to interrupt anywhere, and to run on a full disk: nothing is removed before
everything that lives has been resolved; packs in which nothing lives go before anything is
written to a new one; a new pack is durable and known before the packs that it replaces go. The
catalog forgets an object before its pack goes, except where there is no space to write the catalog:
then packs in which nothing lives go first, and a catch-up does the rest if the prune ends there.
"""

import logging
import resource
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from cbtfs.core.ids import DiskId, PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
from cbtfs.liveness import Marker
from cbtfs.prune.rewrite import Rewriter, least_bytes
from cbtfs.prune.select import Limits, PackUse, Selection, select
from cbtfs.prune.space import Space, take_step
from cbtfs.prune.survey import Survey, survey
from cbtfs.prune.sweep import LARGE, SMALL, sweep
from cbtfs.store.catalog.update import Update
from cbtfs.store.missing import refuse_missing
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.repository import Repository
from cbtfs.store.reserve import catalog_bytes, is_tight

log = logging.getLogger(__name__)

Announce = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Told what comes next and how much of it there is; yields who is told how much more is done."""


def silent(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Announce nothing."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a prune did or, for a dry run, what it would do."""

    is_dry_run: bool
    points: int
    """Points that stay."""
    leased: int
    """Forgotten points that somebody still has open: all they need stays as well."""
    size_before: int
    """Bytes in packs."""
    freed_bytes: int
    unused_bytes: int
    """Bytes in packs that nothing needs and that were not worth rewriting."""
    rewritten_bytes: int
    dead_objects: int
    dead_bytes: int
    shared_objects: int
    """Objects of forgotten points that stay, as other points need them too."""
    shared_bytes: int
    removed_packs: int
    forgotten: int
    """Manifests of forgotten points that were removed."""
    damaged: tuple[str, ...] = ()
    """What could not be read, and so was left where it is."""
    postponed_packs: int = 0
    """Packs that were not rewritten for lack of free space."""
    postponed_bytes: int = 0
    """What rewriting them would free."""
    needed_bytes: int = 0
    """Free space with which the next prune can go on; 0 if none was postponed."""


@dataclass(frozen=True, slots=True)
class _Points:
    """Who needs what."""

    living: list[Manifest]
    leased: set[PointId]
    dead: dict[PointId, Manifest]
    """Forgotten, and nobody has them open."""


def prune(
    repository: Repository,
    limits: Limits,
    *,
    is_dry_run: bool = False,
    without: Collection[PointId] = (),
    announce: Announce = silent,
    pack_bytes: int = PACK_BYTES,
) -> Outcome:
    """Give back the space of what no point needs; Outcome says how much.

    ChunkMissing or DataCorrupt if anything that a point needs does not resolve: then nothing
    was removed. ManifestsMissing if a point has no manifest: what it needs is not known to be
    dead. *without*, for a dry run, takes these points for forgotten.
    """
    refuse_missing(repository)
    _allow_many_files()
    with repository.points.claimed() as dead:
        points = _load_points(repository, dead, without if is_dry_run else ())
        refuse_missing(repository)  # points/ may have lost files since, and before they were listed
        living, found = _look(repository, points, announce)
        chosen = select(found.packs, limits)
        space = Space(repository.path)
        if is_dry_run:
            return _foreseen(points, found, chosen, space, pack_bytes)
        steps = Rewriter(repository, space, pack_bytes=pack_bytes)
        if space.is_short_for_catalog:
            steps.remove(chosen.removed)
            space.wait_for(catalog_bytes(repository.path))
        with announce("dropping", found.dead_objects) as advance:
            batch = SMALL if is_tight(repository.path) else LARGE
            sweep(repository.catalog, living.marked, advance, batch)
        with announce("rewriting", sum(pack.live_bytes for pack in chosen.rewritten)) as advance:
            repository.catalog.update(lambda update: _drop_packs(update, chosen.removed))
            steps.remove(chosen.removed)
            steps.rewrite(chosen.rewritten, advance)
        gone = _superseded(points)
        repository.remove_forgotten(gone)
    return _outcome(points, found, steps, len(gone))


def _allow_many_files() -> None:
    """Each forgotten point that is claimed takes a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _load_points(
    repository: Repository, dead: set[PointId], without: Collection[PointId]
) -> _Points:
    folder = repository.points
    leased = folder.forgotten_ids() - dead
    retained = folder.ids()
    living = [folder.read_manifest(each) for each in retained - {*without}]
    living += [folder.read_forgotten(each) for each in leased]
    known = {}
    for point in dead:
        try:
            known[point] = folder.read_forgotten(point)
        except (DataCorrupt, PointNotFound) as exc:
            log.warning("%s; it was forgotten, and is kept as its disks are not known", exc)
    for point in retained & {*without}:
        known[point] = folder.read_manifest(point)
    return _Points(sorted(living, key=lambda each: (each.vm.id, each.order)), leased, known)


def _look(repository: Repository, points: _Points, announce: Announce) -> tuple[Marker, Survey]:
    with repository.catalog.view() as view:
        packs = view.packs().keys()
    living, forgotten = (Marker(repository.catalog, packs) for _ in range(2))
    total = sum(disk.size for each in points.living for disk in each.disks)
    with announce("marking", total) as advance:
        try:
            living.mark(points.living, advance)
        except (ChunkMissing, DataCorrupt) as exc:
            raise DataCorrupt(
                f"nothing was removed, as not all that is needed can be found: {exc}; "
                "run check, then repair, or forget that point"
            ) from exc
    for manifest in points.dead.values():
        for disk in manifest.disks:
            try:
                forgotten.mark_disk(disk)
            except (ChunkMissing, DataCorrupt):
                continue  # An earlier prune took it.
    with repository.catalog.view() as view:
        return living, survey(view, living.marked, forgotten.marked)


def _drop_packs(update: Update, packs: Iterable[PackUse]) -> None:
    for pack in packs:
        update.drop_pack(pack.number)


def _superseded(points: _Points) -> list[PointId]:
    """Dead manifests that tell nothing any more.

    The newest of a disk stays: a change list that does not say since when is since that one.
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


def _unused(found: Survey, removed: Iterable[PackUse]) -> int:
    gone = {pack.number for pack in removed}
    return sum(pack.unused_bytes for pack in found.packs if pack.number not in gone)


def _foreseen(
    points: _Points, found: Survey, chosen: Selection, space: Space, pack_bytes: int
) -> Outcome:
    rewritten, postponed = _foreseen_steps(chosen, space, pack_bytes)
    removed = (*chosen.removed, *rewritten)
    rewritten_bytes = sum(pack.used_bytes for pack in rewritten)
    return Outcome(
        True,
        len(points.living),
        len(points.leased),
        sum(pack.size for pack in found.packs),
        sum(pack.size for pack in removed) - rewritten_bytes,
        _unused(found, removed),
        rewritten_bytes,
        found.dead_objects,
        found.dead_bytes,
        found.shared_objects,
        found.shared_bytes,
        len(removed),
        len(_superseded(points)),
        (),
        *_of_postponed(postponed, space),
    )


def _foreseen_steps(
    chosen: Selection, space: Space, pack_bytes: int
) -> tuple[list[PackUse], list[PackUse]]:
    """The packs that a prune would rewrite, and those that it would postpone."""
    left = deque(chosen.rewritten)
    free = space.free + sum(pack.size for pack in chosen.removed)
    done: list[PackUse] = []
    while step := take_step(left, free, space.catalog, pack_bytes):
        done += step
        free += sum(pack.unused_bytes for pack in step)
    return done, [*left]


def _of_postponed(packs: Sequence[PackUse], space: Space) -> tuple[int, int, int]:
    freed = sum(pack.unused_bytes for pack in packs)
    return len(packs), freed, least_bytes(packs, space.catalog)


def _outcome(points: _Points, found: Survey, steps: Rewriter, forgotten: int) -> Outcome:
    size = sum(pack.size for pack in found.packs)
    freed = steps.removed_bytes - steps.written_bytes
    used = sum(pack.used_bytes for pack in found.packs)
    return Outcome(
        False,
        len(points.living),
        len(points.leased),
        size,
        freed,
        max(size - freed - used, 0),
        steps.written_bytes,
        found.dead_objects,
        found.dead_bytes,
        found.shared_objects,
        found.shared_bytes,
        steps.removed_packs,
        forgotten,
        tuple(steps.damaged),
        *_of_postponed(steps.postponed, steps.space),
    )
