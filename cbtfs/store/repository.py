"""A repository: made, opened for reading, opened for writing by one process at a time."""

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.core.ids import Digest, PointId
from cbtfs.core.manifest import Manifest, PointState, decode_manifest, encode_manifest, encode_state
from cbtfs.core.settings import Settings, encode_settings
from cbtfs.errors import (
    AccessDenied,
    RepositoryLocked,
    RepositoryNotFound,
    StoreFailed,
    UsageError,
    WrongDirectory,
)
from cbtfs.store import reserve
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged, PointRecord
from cbtfs.store.catalog.update import Update
from cbtfs.store.catchup import Findings, catch_up, lacks_nothing
from cbtfs.store.directories import DIRECTORIES, require_directories, write_marker
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.files import (
    exchange,
    finish_exchange,
    make_folder,
    put_if_absent,
    remove_folder,
    storing,
    sync_folder,
)
from cbtfs.store.folder import Folder
from cbtfs.store.lock import WriterLock
from cbtfs.store.node_repair import copy_nodes_anew, put_nodes_anew
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import Forgotten, PointFolder
from cbtfs.store.quarantine import BadPlace, load_quarantine, save_quarantine, still_bad
from cbtfs.store.rebuild import Progress, rebuild
from cbtfs.store.salvage import salvage
from cbtfs.store.settings import SETTINGS, load_settings
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

CATALOG: Final = "catalog"
_REBUILD_SECONDS: Final = 60.0
"""What a reader waits for a writer where the catalog cannot be opened: it is being made anew."""


class Repository:
    """An open repository. At most one in a process for each folder; none across a fork."""

    def __init__(
        self, path: Path, settings: Settings, catalog: Catalog, findings: Findings | None = None
    ) -> None:
        self.path = path
        self.settings = settings
        self.catalog = catalog
        self.packs = PackFolder(path / "packs")
        self.points = PointFolder(path / "points")
        self.distrust = DistrustFolder(path)
        self.findings = findings or Findings()
        """What opening for writing had to mend."""
        self._forgotten: Forgotten | None = None

    def forgotten(self) -> Forgotten:
        """What is known of points that were forgotten, for the one writer.

        Nobody else forgets or removes any, so the folder, which may be large, is listed once.
        """
        found = self._forgotten
        if found is None:
            found = self._forgotten = self.points.forgotten()
        return found

    def remove_forgotten(self, points: Iterable[PointId]) -> None:
        """For a writer: remove what is left of forgotten points."""
        with storing("the folder of points"):
            for point in points:
                self.points.remove_forgotten(point)
        self._forgotten = None

    def quarantined(self) -> dict[Digest, BadPlace]:
        """Objects that stand where they are known to be bad, by their digests."""
        places = load_quarantine(self.path)
        if not places:
            return {}
        with self.catalog.view() as view:
            return still_bad(view, places)

    def add_to_quarantine(self, places: Iterable[BadPlace]) -> None:
        """For a writer: nothing is deduplicated against what stands in *places* from now on."""
        packs = self.packs.ids()
        known = load_quarantine(self.path) | {*places}
        save_quarantine(self.path, [place for place in known if place.pack in packs])

    def object_writer(
        self,
        pack_bytes: int = PACK_BYTES,
        *,
        level: int | None = None,
        threads: int | None = None,
    ) -> ObjectWriter:
        """For a writer: where new objects go, in packs of about that size.

        *level* of zstd instead of the repository's, *threads* instead of one for each core. The
        first to go there are nodes in quarantine whose children are known.
        """
        bad = self.quarantined()
        objects = ObjectWriter(
            self.catalog,
            self.packs,
            self.settings.level if level is None else level,
            pack_bytes=pack_bytes,
            bad=bad,
            threads=threads,
        )
        try:
            put_nodes_anew(self.catalog, objects, bad.values())
        except BaseException:
            objects.close()
            raise
        return objects

    def commit(self, objects: ObjectWriter, manifest: Manifest) -> None:
        """Make *manifest* a restore point of this repository; the one order of a commit.

        Everything that was put into *objects* is flushed first; the manifest under its name is
        the commit; the catalog follows. StoreFailed leaves it uncommitted or, where the manifest
        is there already, says so: the next opening for writing catches up.
        """
        objects.flush()
        state = PointState(manifest.point)
        with storing("the restore point"):
            self.points.commit(manifest, state)
        _, mark = self.points.load_state(manifest.point)
        record = PointRecord(encode_manifest(manifest), encode_state(state), mark)
        try:
            self.catalog.update(lambda update: update.put_point(manifest, record))
        except StoreFailed as exc:
            raise StoreFailed(f"point {manifest.point} is committed, but {exc}") from exc
        for disk in manifest.disks:
            if disk.ingest == "full":
                self.distrust.settle(disk.id, manifest.order)

    def forget(self, points: Collection[PointId]) -> None:
        """Let *points* be forgotten; what they alone need is freed by the next prune.

        Takes the same time whatever they hold. The new names of their manifests are the commit.
        """
        with storing("the folder of points"):
            self.points.forget(points)
        self.drop_forgotten(points)

    def drop_forgotten(self, points: Collection[PointId]) -> None:
        """Remove *points*, whose forgotten manifests are written, from the catalog."""
        self._forgotten = None
        self.catalog.update(lambda update: _drop_points(update, points))

    def drop_forgotten_listing(self) -> None:
        """Let forgotten() list the folder again, after forgotten points were brought back."""
        self._forgotten = None

    def put_states(self, states: Iterable[PointState]) -> None:
        """Let *states* be those of their points."""
        changed = []
        with storing("a state file"):
            for state in states:
                self.points.put_state(state)
                changed.append(state.point)
        self.catalog.update(lambda update: _reload_states(update, self.points, changed))


def _drop_points(update: Update, points: Collection[PointId]) -> None:
    for point in points:
        record = update.point(point)
        if record is not None:
            update.drop_point(decode_manifest(record.manifest))
    gone = update.missing & {*points}
    if gone:
        update.set_missing(update.missing - gone)


def _reload_states(update: Update, points: PointFolder, changed: Iterable[PointId]) -> None:
    for point in changed:
        record = update.point(point)
        if record is not None:
            state, mark = points.load_state(point)
            new = PointRecord(record.manifest, encode_state(state), mark)
            update.put_point(decode_manifest(record.manifest), new)


def create_repository(path: Path, settings: Settings) -> None:
    """Make an empty repository at *path*, a folder that is empty or not there yet."""
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if (path / SETTINGS).exists():
            raise UsageError(f"there is a repository at {path} already") from None
        if not path.is_dir() or any(path.iterdir()):
            raise UsageError(f"{path} is not an empty folder: name one that is") from None
        path.chmod(0o700)
    except OSError as exc:
        raise UsageError(f"cannot make {path}: {exc.strerror}") from exc
    with storing(f"the repository {path}"):
        for name in ("packs", "points", "locks"):
            make_folder(path / name)
        for directory in DIRECTORIES:
            write_marker(path, settings.id, directory)
        Catalog(path / CATALOG, is_writable=True).close()
        put_if_absent(path / SETTINGS, encode_settings(settings))
        sync_folder(path.absolute().parent)


def take_lock(path: Path, wait_seconds: float) -> WriterLock:
    """Take the writer's lock of the repository at *path*, which must be one.

    DataCorrupt if locks/ is a link; raises what WriterLock() raises.
    """
    with storing("the writer's lock"):
        make_folder(path / "locks")
        folder = Folder(path / "locks")
        lock = WriterLock(folder.at / "writer", wait_seconds)
        finish_exchange(path / CATALOG)
    return lock


@contextmanager
def writing(
    path: Path, *, lock_wait: float = 0.0, is_suspect: bool = False
) -> Iterator[Repository]:
    """The repository at *path*, for its one writer, with the catalog caught up.

    Waits *lock_wait* seconds for another writer to end, then raises RepositoryLocked. Where the
    catalog *is_suspect*, or the last writer died, it is verified first.
    """
    load_settings(path)
    lock = take_lock(path, lock_wait)
    is_clean = False
    try:
        # The writer that was waited for may have changed what a program must know.
        settings = load_settings(path)
        with storing("the repository"):
            is_unsure = is_suspect or lock.was_left_behind
            require_directories(path, settings.id, is_suspect=is_unsure)
            repository = _open_locked(path, settings, must_verify=is_unsure)
        try:
            with repository.catalog.view() as view:
                largest = view.largest_pack()
            reserve.keep(path, largest)
            yield repository
            is_clean = True
        except StoreFailed:
            raise
        except BaseException:
            is_clean = True
            raise
        finally:
            repository.catalog.close()
    finally:
        lock.release(is_clean=is_clean)


def _open_locked(path: Path, settings: Settings, *, must_verify: bool) -> Repository:
    folder = path / CATALOG
    packs, points = PackFolder(path / "packs"), PointFolder(path / "points")
    problem = gate.verify(folder) if must_verify and (folder / gate.DATA).exists() else None
    try:
        if problem is not None:
            raise CatalogDamaged(problem)
        catalog = Catalog(folder, is_writable=True)
        try:
            _announce_rebuild(catalog, packs)
            findings = catch_up(catalog, packs, points, load_quarantine(path))
        except BaseException:
            catalog.close()
            raise
    except CatalogDamaged as exc:
        log.warning("%s; rebuilding it", exc)
        catalog, findings = _rebuild(path, packs, points)
    return Repository(path, settings, catalog, findings)


def _announce_rebuild(catalog: Catalog, packs: PackFolder) -> None:
    """Log that a catalog which knows no pack is filled from all there are: that takes a while."""
    with catalog.view() as view:
        is_empty = not view.pack_numbers()
    if is_empty and (count := len(packs.ids())):
        log.warning("the catalog is missing or empty: rebuilding it from %d packs", count)


def _rebuild(
    path: Path, packs: PackFolder, points: PointFolder, progress: Progress = lambda _: None
) -> tuple[Catalog, Findings]:
    """A catalog made anew from packs and points beside the old one, which is kept aside.

    Points that the old one knows and that are missing from points/ stay known.
    """
    salvaged = salvage(path / CATALOG)
    new, aside = path / (CATALOG + ".new"), path / (CATALOG + ".damaged")
    with storing("the catalog"):
        remove_folder(new)
    catalog = Catalog(new, is_writable=True)
    try:
        findings = rebuild(catalog, packs, points, load_quarantine(path), progress, salvaged)
    finally:
        catalog.close()
    with storing("the catalog"):
        sync_folder(new)
        exchange(new, path / CATALOG)
        remove_folder(aside)
        if new.exists():
            os.rename(new, aside)
        sync_folder(path)
    return Catalog(path / CATALOG, is_writable=True), findings


def rebuild_catalog(
    path: Path, *, lock_wait: float = 0.0, progress: Progress = lambda _: None
) -> Findings:
    """Make the catalog anew from packs and points alone, whatever stands there now.

    The old one serves until the new one replaces it, so this may be interrupted at any time.
    *progress* gets bytes of packs. Nodes that only the old one still knows are written first.
    """
    load_settings(path)
    lock = take_lock(path, lock_wait)
    is_clean = False
    try:
        settings = load_settings(path)
        with storing("the catalog"):
            require_directories(path, settings.id, is_suspect=True)
            packs, points = PackFolder(path / "packs"), PointFolder(path / "points")
            packs.remove_leftovers()
            points.remove_leftovers()
            mended = copy_nodes_anew(path / CATALOG, packs, settings.level)
            catalog, findings = _rebuild(path, packs, points, progress)
            findings.nodes_mended = mended
            catalog.close()
            remove_folder(path / (CATALOG + ".damaged"))
        is_clean = True
        return findings
    finally:
        lock.release(is_clean=is_clean)


@contextmanager
def reading(path: Path, *, is_suspect: bool = False) -> Iterator[Repository]:
    """The repository at *path*, for one of many readers.

    Where the catalog lags behind points/, and nobody writes, it is caught up first, if there is
    space for that: a point that was committed just before a crash is there. A damaged one is
    rebuilt, by this process or another; *is_suspect* verifies it.
    """
    settings = load_settings(path)
    is_open, is_in_step = _look(path)
    if is_suspect or not is_in_step:
        wait = _REBUILD_SECONDS if is_suspect or not is_open else 0.0
        try:
            with (
                contextlib.suppress(RepositoryLocked, AccessDenied),
                writing(path, lock_wait=wait, is_suspect=is_suspect),
            ):
                pass
        except WrongDirectory as exc:
            if not is_open:
                raise
            log.warning("%s; restore points are shown as the catalog knows them", exc)
        except StoreFailed as exc:
            log.warning("points that the catalog does not know yet are not shown: %s", exc)
    catalog = Catalog(path / CATALOG, is_writable=False)
    try:
        yield Repository(path, settings, catalog)
    finally:
        catalog.close()


def _look(path: Path) -> tuple[bool, bool]:
    """Whether the catalog can be opened, and whether it knows the points that there are."""
    try:
        catalog = Catalog(path / CATALOG, is_writable=False)
    except (RepositoryNotFound, CatalogDamaged):
        return False, False
    try:
        with catalog.view() as view:
            return True, lacks_nothing(view, PointFolder(path / "points"))
    except CatalogDamaged:
        return True, True
    finally:
        catalog.close()
