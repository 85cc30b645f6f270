"""Repair: rebuilds the catalog from packs and points, removes leftovers, restores manifests."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, decode_manifest
from cbtfs.core.settings import Settings
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.listing import points
from cbtfs.liveness import Marker
from cbtfs.store import directories
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog_opening import CATALOG
from cbtfs.store.directories import Directory, check_directories
from cbtfs.store.missing import missing_points, put_back
from cbtfs.store.packs import digester_of, open_pack_folder
from cbtfs.store.point_folder import open_point_folder
from cbtfs.store.repository import Repository, reading, rebuild_catalog, take_lock, writing
from cbtfs.store.settings import load_settings


@dataclass(frozen=True, slots=True)
class Repaired:
    """Result of a repair; of a dry run, the repairs to make."""

    is_dry_run: bool
    catalog: str | None
    """Error of the pages of the old catalog, or None."""
    leftovers: int
    """Number of incomplete files of a crashed writer."""
    packs: int
    points: int
    objects: int | None = None
    nodes_left_out: int | None = None
    """Number of nodes with an absent child, whose data cannot be read."""
    nodes_mended: int | None = None
    """Number of nodes with a corrupt or absent frame, rewritten from the old catalog."""
    damaged: tuple[PointId, ...] = ()
    """Points that cannot be read completely, because a block map is missing."""
    problems: tuple[str, ...] = ()
    """Errors of packs and manifests."""
    missing: tuple[PointId, ...] = ()
    """Points of the catalog whose manifests are missing from points/."""
    restored: tuple[PointId, ...] = ()
    """Points whose manifests were restored; of a dry run, would be."""


@dataclass(frozen=True, slots=True)
class MissingPoint:
    """A point whose manifest is missing from points/."""

    manifest: Manifest
    """The catalog's copy of the manifest."""
    problem: str | None
    """Why its block maps are incomplete; None if they are complete, so that it can be restored."""


def repair(
    path: Path,
    *,
    is_dry_run: bool = False,
    restores_manifests: bool = False,
    lock_wait: float = 0.0,
    start_progress: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
    on_missing: Callable[[Sequence[MissingPoint]], None] = lambda _: None,
) -> Repaired:
    """Rebuild the catalog. The old one stays in use until then, so an interruption is harmless.

    With *restores_manifests*, missing manifests of points with complete block maps are restored
    from the catalog's copies. *start_progress* receives the bytes of all packs and returns the
    callback for progress. *on_missing* receives the points with missing manifests before any is
    restored.

    Raises:
        RepositoryLocked: another writer holds the lock for longer than *lock_wait* seconds.
        WrongDirectory: points/ or packs/ belongs to another repository.
    """
    settings = load_settings(path)
    check_directories(path, settings.id)
    before, size = _survey(path, is_dry_run=is_dry_run)
    if is_dry_run:
        expected = _expected_missing(path, settings) if before.catalog is None else []
        on_missing(expected)
        restorable = _restorable(expected) if restores_manifests else ()
        return replace(before, missing=_ids(expected), restored=restorable)
    findings = rebuild_catalog(path, lock_wait=lock_wait, progress=start_progress(size))
    missing, restored = _settle_missing(path, restores_manifests, lock_wait, on_missing)
    return Repaired(
        False,
        before.catalog,
        before.leftovers,
        findings.packs_added,
        findings.points_added,
        findings.objects_added,
        findings.nodes_left_out,
        findings.nodes_mended,
        _damaged(path),
        (*findings.packs_scanned, *findings.unreadable),
        missing,
        restored,
    )


def _settle_missing(
    path: Path,
    restores_manifests: bool,
    lock_wait: float,
    on_missing: Callable[[Sequence[MissingPoint]], None],
) -> tuple[tuple[PointId, ...], tuple[PointId, ...]]:
    """Report missing points and restore manifests; return missing and restored points."""
    if not restores_manifests:
        with reading(path) as repository:
            missing = _missing(repository)
        on_missing(missing)
        return _ids(missing), ()
    with writing(path, lock_wait=lock_wait) as repository:
        missing = _missing(repository)
        on_missing(missing)
        restored = _restorable(missing)
        put_back(repository, restored)
    return tuple(point for point in _ids(missing) if point not in restored), restored


def _expected_missing(path: Path, settings: Settings) -> list[MissingPoint]:
    """Return the missing points of the catalog without catching it up."""
    try:
        catalog = Catalog(path / CATALOG, is_writable=False, digester=digester_of(path))
    except CatalogDamaged:
        return []
    try:
        with closing(Repository(path, settings, catalog)) as repository:
            return _missing(repository)
    except CatalogDamaged:
        return []
    finally:
        catalog.close()


def _missing(repository: Repository) -> list[MissingPoint]:
    with repository.catalog.view() as view:
        packs = view.packs().keys()
        records = [view.point(point) for point in sorted(missing_points(repository))]
    manifests = [decode_manifest(record.manifest) for record in records if record is not None]
    missing = []
    for manifest in sorted(manifests, key=lambda m: (m.vm.name, m.vm.id, m.order)):
        problem = None
        try:
            # A new Marker for each point: it skips nodes that an incomplete map has marked.
            Marker(repository.catalog, packs).mark([manifest])
        except (ChunkMissing, DataCorrupt) as exc:
            problem = str(exc)
        missing.append(MissingPoint(manifest, problem))
    return missing


def _ids(missing: Iterable[MissingPoint]) -> tuple[PointId, ...]:
    return tuple(point.manifest.point for point in missing)


def _restorable(missing: Iterable[MissingPoint]) -> tuple[PointId, ...]:
    return _ids(point for point in missing if point.problem is None)


def create_markers(path: Path, *, lock_wait: float = 0.0) -> list[Directory]:
    """Write absent or damaged markers of points/ and packs/; return their directories.

    The user must have confirmed that the directories are the right ones. WrongDirectory if one
    has the marker of another.
    """
    load_settings(path)
    lock = take_lock(path, lock_wait)
    try:
        return directories.create_markers(path, load_settings(path).id)
    finally:
        lock.release(is_clean=not lock.was_left_behind)


def _damaged(path: Path) -> tuple[PointId, ...]:
    with reading(path) as repository, repository.catalog.view() as view:
        return tuple(point.manifest.point for point in points(view) if point.is_damaged)


def _catalog_error(path: Path) -> str | None:
    if not (path / CATALOG / gate.DATA).exists():
        return "it does not exist"
    return gate.verify(path / CATALOG)


def _survey(path: Path, *, is_dry_run: bool) -> tuple[Repaired, int]:
    """Return the state of a repository before its repair, and the bytes of its packs."""
    with (
        closing(open_pack_folder(path)) as packs,
        closing(open_point_folder(path)) as points,
    ):
        ids = packs.ids()
        leftovers = packs.count_leftovers() + points.count_aside()
        state = Repaired(is_dry_run, _catalog_error(path), leftovers, len(ids), len(points.ids()))
        return state, 0 if is_dry_run else sum(packs.size(pack) for pack in ids)


def unlock(path: Path) -> str | None:
    """Remove the record of a stale writer from the lock; return that writer, or None.

    Verifies the catalog and catches it up.

    Raises:
        RepositoryLocked: a running process holds the lock; the error names it.
    """
    load_settings(path)
    if not (path / "locks" / "writer").exists():
        return None
    lock = take_lock(path, 0.0)
    left = lock.was_left_behind
    lock.release(is_clean=not left)
    if not left:
        return None
    with writing(path):
        return "another process" if lock.left_by is None else str(lock.left_by)
