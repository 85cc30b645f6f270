"""Rebuild the catalog from packs and points, and clear away what a crash left."""

from collections.abc import Callable, Iterable, Sequence
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
from cbtfs.store.directories import Directory, look_at_directories
from cbtfs.store.missing import missing_points, put_back
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder
from cbtfs.store.repository import CATALOG, Repository, reading, rebuild_catalog, take_lock, writing
from cbtfs.store.settings import load_settings


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did or, for a dry run, what there is to do."""

    is_dry_run: bool
    catalog: str | None
    """What was wrong with the pages of the old catalog; None if nothing."""
    leftovers: int
    """Files that a crash left half written."""
    packs: int
    points: int
    objects: int | None = None
    nodes_left_out: int | None = None
    """Nodes with a child that is nowhere: what they show cannot be read."""
    nodes_mended: int | None = None
    """Nodes whose frames were bad or gone, and which the old catalog still knew: stored anew."""
    damaged: tuple[PointId, ...] = ()
    """Points that cannot be read, or not all of them: a block map is missing."""
    problems: tuple[str, ...] = ()
    """Packs and manifests that cannot be read as they should."""
    missing: tuple[PointId, ...] = ()
    """Points whose manifests are missing from points/, and that the catalog still knows."""
    restored: tuple[PointId, ...] = ()
    """Points whose manifests were, or would be, written back."""


@dataclass(frozen=True, slots=True)
class MissingPoint:
    """A point whose manifest is missing from points/."""

    manifest: Manifest
    """The catalog's copy."""
    problem: str | None
    """Why its block maps do not resolve; None if they do, so that it can be written back."""


def repair(
    path: Path,
    *,
    is_dry_run: bool = False,
    restores_manifests: bool = False,
    lock_wait: float = 0.0,
    announce: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
    on_missing: Callable[[Sequence[MissingPoint]], None] = lambda _: None,
) -> Repaired:
    """Make the catalog anew; the old one serves until then, so it may be interrupted.

    With *restores_manifests* the catalog's copies of missing manifests are written back to
    points/, of the points whose block maps resolve completely. RepositoryLocked while another
    writes; WrongDirectory where points/ or packs/ is not the repository's. *announce* is told the
    bytes of all packs, and returns who is told of progress. *on_missing* gets the points whose
    manifests are missing before any is written back.
    """
    settings = load_settings(path)
    look_at_directories(path, settings.id)
    packs, manifests = PackFolder(path / "packs"), PointFolder(path / "points")
    found = Repaired(
        is_dry_run,
        _trouble(path),
        _leftovers(path),
        len(packs.ids()),
        len(manifests.ids()),
    )
    if is_dry_run:
        foreseen = _foreseen(path, settings) if found.catalog is None else []
        on_missing(foreseen)
        restorable = _restorable(foreseen) if restores_manifests else ()
        return replace(found, missing=_ids(foreseen), restored=restorable)
    size = sum(packs.size(pack) for pack in packs.ids())
    findings = rebuild_catalog(path, lock_wait=lock_wait, progress=announce(size))
    missing, restored = _settle_missing(path, restores_manifests, lock_wait, on_missing)
    return Repaired(
        False,
        found.catalog,
        found.leftovers,
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
    """Report missing points, and restore those that can be; which are missing, which restored."""
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


def _foreseen(path: Path, settings: Settings) -> list[MissingPoint]:
    """The missing points as the catalog knows them, which is not caught up."""
    try:
        catalog = Catalog(path / CATALOG, is_writable=False)
    except CatalogDamaged:
        return []
    try:
        return _missing(Repository(path, settings, catalog))
    except CatalogDamaged:
        return []
    finally:
        catalog.close()


def _missing(repository: Repository) -> list[MissingPoint]:
    with repository.catalog.view() as view:
        packs = view.packs().keys()
        records = [view.point(point) for point in sorted(missing_points(repository))]
    manifests = [decode_manifest(record.manifest) for record in records if record is not None]
    found = []
    for manifest in sorted(manifests, key=lambda each: (each.vm.name, each.vm.id, each.order)):
        problem = None
        try:
            # One marking for each: nodes that an incomplete map has marked are not looked at again.
            Marker(repository.catalog, packs).mark([manifest])
        except (ChunkMissing, DataCorrupt) as exc:
            problem = str(exc)
        found.append(MissingPoint(manifest, problem))
    return found


def _ids(missing: Iterable[MissingPoint]) -> tuple[PointId, ...]:
    return tuple(each.manifest.point for each in missing)


def _restorable(missing: Iterable[MissingPoint]) -> tuple[PointId, ...]:
    return _ids(each for each in missing if each.problem is None)


def create_markers(path: Path, *, lock_wait: float = 0.0) -> list[Directory]:
    """Write the markers of points/ and packs/ that are absent or damaged; which these were.

    The user vouches for the directories. WrongDirectory where one has another's marker.
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


def _trouble(path: Path) -> str | None:
    if not (path / CATALOG / gate.DATA).exists():
        return "it is not there"
    return gate.verify(path / CATALOG)


def _leftovers(path: Path) -> int:
    return PackFolder(path / "packs").count_leftovers() + PointFolder(path / "points").count_aside()


def unlock(path: Path) -> str | None:
    """Clear what a dead writer left in the lock; who that was, None if none did.

    The catalog is verified and caught up on the way. RepositoryLocked, with the holder, while
    the lock is held: a process that runs holds it rightly, and one that ends lets go.
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
