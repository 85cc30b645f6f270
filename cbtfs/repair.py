"""Rebuild the catalog from packs and points, and clear away what a crash left."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.ids import PointId
from cbtfs.listing import points
from cbtfs.store.catalog import gate
from cbtfs.store.lock import WriterLock
from cbtfs.store.pack import OPEN_SUFFIX
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import ASIDE_SUFFIX, PointFolder
from cbtfs.store.repository import CATALOG, load_settings, reading, rebuild_catalog, writing


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


def repair(
    path: Path,
    *,
    is_dry_run: bool = False,
    lock_wait: float = 0.0,
    announce: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Repaired:
    """Make the catalog anew; the old one serves until then, so it may be interrupted.

    RepositoryLocked while another writes. *announce* is told the bytes of all packs, and returns
    who is told of progress.
    """
    load_settings(path)
    packs, manifests = PackFolder(path / "packs"), PointFolder(path / "points")
    found = Repaired(
        is_dry_run,
        _trouble(path),
        _leftovers(path),
        len(packs.ids()),
        len(manifests.ids()),
    )
    if is_dry_run:
        return found
    size = sum(packs.path(pack).lstat().st_size for pack in packs.ids())
    findings = rebuild_catalog(path, lock_wait=lock_wait, progress=announce(size))
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
    )


def _damaged(path: Path) -> tuple[PointId, ...]:
    with reading(path) as repository, repository.catalog.view() as view:
        return tuple(point.manifest.point for point in points(view) if point.is_damaged)


def _trouble(path: Path) -> str | None:
    if not (path / CATALOG / gate.DATA).exists():
        return "it is not there"
    return gate.verify(path / CATALOG)


def _leftovers(path: Path) -> int:
    packs = (path / "packs").glob(f"*/*{OPEN_SUFFIX}")
    states = (path / "points").glob(f"*{ASIDE_SUFFIX}")
    return sum(1 for _ in (*packs, *states))


def unlock(path: Path) -> str | None:
    """Clear what a dead writer left in the lock; who that was, None if none did.

    The catalog is verified and caught up on the way. RepositoryLocked, with the holder, while
    the lock is held: a process that runs holds it rightly, and one that ends lets go.
    """
    load_settings(path)
    file = path / "locks" / "writer"
    if not file.exists():
        return None
    lock = WriterLock(file)
    left = lock.was_left_behind
    lock.release(is_clean=not left)
    if not left:
        return None
    with writing(path):
        return "another process" if lock.left_by is None else str(lock.left_by)
