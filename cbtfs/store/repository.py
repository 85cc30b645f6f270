"""A repository: creating it, and opening it for reading and for writing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cbtfs.core.ids import Digest, PackId, PointId
from cbtfs.core.keyslot import PreviousEpoch, Slot
from cbtfs.core.manifest import (
    Manifest,
    PointState,
    decode_manifest,
    decode_state,
    encode_manifest,
    encode_state,
)
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
from cbtfs.store.backend.base import NoReply
from cbtfs.store.backend.bucket import BucketUrl, NoBucket
from cbtfs.store.backend.layout import (
    create_places,
    create_record,
    create_slots,
    has_record,
    make_shared_places,
    open_points,
)
from cbtfs.store.backend.probe import probe
from cbtfs.store.backend.remote import (
    bucket_of,
    drop_keys,
    put_keys,
    refuse_used,
    remote_of,
    state_locked,
)
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged, PointRecord
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog_opening import (
    CATALOG,
    TURNS,
    open_catalog,
    open_shared_catalog,
    replace_catalog,
)
from cbtfs.store.catchup import Findings, lacks_nothing
from cbtfs.store.closure import closed_packs
from cbtfs.store.directories import DIRECTORIES, require_directories, write_marker
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.encryption.known import forget_path
from cbtfs.store.encryption.ring import keys_of, renew
from cbtfs.store.files import finish_exchange, make_folder, sync_folder
from cbtfs.store.folder import Folder
from cbtfs.store.identity import new_point_id
from cbtfs.store.lock import WriterLock
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.packs import digester_of, open_pack_folder, signer_of
from cbtfs.store.pins import unpinned
from cbtfs.store.point_folder import open_point_folder
from cbtfs.store.points import Forgotten, PointFolder, Points
from cbtfs.store.quarantine import (
    CorruptFrame,
    load_quarantine,
    save_quarantine,
    still_referenced,
)
from cbtfs.store.rollback import forget_heads, refuse_older, remember_heads, save_known
from cbtfs.store.settings import SETTINGS, load_settings
from cbtfs.store.storing import storing
from cbtfs.store.trusted import Trusted, load_trusted, save_trusted
from cbtfs.store.turns import Turns

if TYPE_CHECKING:
    from cbtfs.store.rebuild import Progress
    from cbtfs.store.shared.shared import Shared
    from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

_REBUILD_SECONDS: Final = 60.0
"""Maximum wait of a reader for the writer that rebuilds a catalog which cannot be opened."""


class Repository:
    """An open repository. One process opens a folder at most once, and not across a fork."""

    def __init__(
        self, path: Path, settings: Settings, catalog: Catalog, findings: Findings | None = None
    ) -> None:
        """Own *catalog*. The caller closes it if the directories cannot be opened."""
        self.path = path
        self.settings = settings
        self.catalog = catalog
        with ExitStack() as opened:
            self.packs = opened.enter_context(closing(open_pack_folder(path)))
            self.shared: Shared | None = None
            """Actions on a repository with several writers; None if there is one writer."""
            self.points: Points
            self._files: PointFolder | None = None
            if settings.is_shared:
                from cbtfs.store.shared.places import open_places
                from cbtfs.store.shared.shared import Shared

                shared = Shared(open_places(path), catalog, self.packs)
                self.shared = opened.enter_context(closing(shared))
                self.points = self.shared.points
            else:
                self._files = opened.enter_context(closing(PointFolder(open_points(path))))
                self.points = self._files
            self.distrust = opened.enter_context(closing(DistrustFolder(path)))
            self._folders = opened.pop_all()
        self.digester = self.packs.digester
        """Computes the digests of the objects."""
        self.findings = findings or Findings()
        """Repairs that were made when the repository was opened for writing."""
        self._forgotten: Forgotten | None = None

    def close(self) -> None:
        """Close the catalog and the directories."""
        save_known(self.settings)
        self.catalog.close()
        self._folders.close()

    def forgotten(self) -> Forgotten:
        """Return the forgotten points that still have manifests. Only for the writer.

        The folder may be large. It is listed once if only the writer changes this list.
        """
        if self._forgotten is None or self.shared is not None:
            self._forgotten = self.points.forgotten()
        return self._forgotten

    @property
    def point_files(self) -> PointFolder:
        """The points of a repository with one writer."""
        assert self._files is not None, "the repository has shared writers"
        return self._files

    def remove_forgotten(self, points: Iterable[PointId]) -> None:
        """Remove the files of forgotten points. Only for the one writer."""
        removed = list(points)
        with storing("the folder of points"):
            for point in removed:
                self.point_files.remove_forgotten(point)
        self.forget_heads(removed)

    def forget_heads(self, points: Collection[PointId]) -> None:
        """Expect that *points*, which are being removed, may have been the newest of their VMs."""
        self._forgotten = None
        forget_heads(self.settings, self.catalog, points)

    def quarantined(self) -> dict[Digest, CorruptFrame]:
        """Return the quarantined frames that the catalog still refers to, by digest."""
        frames = load_quarantine(self.path)
        if not frames:
            return {}
        with self.catalog.view() as view:
            return still_referenced(view, frames)

    def add_to_quarantine(self, frames: Iterable[CorruptFrame]) -> None:
        """Exclude *frames* from deduplication. Only for the writer."""
        packs = self.packs.ids()
        known = load_quarantine(self.path) | {*frames}
        save_quarantine(self.path, [frame for frame in known if frame.pack in packs])

    def count_verified(self, packs: Trusted) -> set[PackId]:
        """Make all writers count the frames of *packs*, which were verified. Only for the writer.

        Return the packs. A pack with nodes whose children are in other packs that nobody verified
        is left out.
        """
        with self.catalog.view() as view:
            closed = closed_packs(view, self.packs, packs)
        if closed:
            self.trust_packs({pack: packs[pack] for pack in closed})
        return closed

    def trust_packs(self, packs: Trusted) -> None:
        """Make all writers count the frames of *packs*. Only for the writer.

        The record is durable first. Entries of packs that are gone are dropped.
        """
        keys = keys_of(self.path)
        assert keys is not None
        present = self.packs.ids()
        trusted = {**load_trusted(self.path, keys), **packs}
        save_trusted(self.path, keys, {p: trusted[p] for p in trusted.keys() & present})
        self.catalog.update(lambda update: _set_verified(update, packs))

    def object_writer(
        self,
        pack_bytes: int = PACK_BYTES,
        *,
        level: int | None = None,
        threads: int | None = None,
        commits: int = 1,
    ) -> ObjectWriter:
        """Return a writer of new objects, in packs of about *pack_bytes*. Only for the writer.

        *level* replaces the repository's zstd level. *threads* defaults to one for each core.
        *commits* is the expected number of points; with shared writers, each of them is announced.
        Nodes in quarantine whose children are known are rewritten first.
        """
        from cbtfs.store.node_repair import rewrite_corrupt_nodes
        from cbtfs.store.writer import ObjectWriter

        avoided, tag, is_fenced = None, "", None
        if self.shared is not None:
            avoided = self.shared.announce(commits, load_quarantine(self.path))
            tag, is_fenced = self.shared.tag, self.shared.is_fenced
        corrupt = self.quarantined()
        with self.catalog.view() as view:
            unverified = {record.id for record in self.packs.unverified(view).values()}
        counted = {d: frame for d, frame in corrupt.items() if frame.pack not in unverified}
        objects = ObjectWriter(
            self.catalog,
            self.packs,
            self.settings.level if level is None else level,
            pack_bytes=pack_bytes,
            corrupt=counted,
            threads=threads,
            avoided=avoided,
            tag=tag,
            is_fenced=is_fenced,
        )
        try:
            rewritten = counted if self.packs.own_signer else corrupt
            rewrite_corrupt_nodes(self.catalog, objects, rewritten.values())
            if self.shared is not None:
                self.shared.rescue_bases(objects)
        except BaseException:
            objects.close()
            raise
        return objects

    def new_point_id(self) -> PointId:
        """Return the id of a new point; with shared writers, that of an announced run."""
        run = None if self.shared is None else self.shared.take_run()
        return new_point_id() if run is None else PointId(run)

    def follow(self) -> None:
        """Learn what other writers have committed. Does nothing if there is one writer."""
        if self.shared is not None:
            self.shared.follow(load_quarantine(self.path))

    def put_point(self, manifest: Manifest, data: bytes, state: PointState) -> None:
        """Commit a point whose objects are flushed; *data* is its encoded manifest.

        The caller enters it in the catalog.

        Raises:
            StoreFailed: the point is not committed, or the message says that this is unknown.
        """
        with storing("the restore point"):
            if self.shared is not None:
                self.shared.commit(manifest, data, state)
            else:
                self.point_files.put(manifest.point, data, state)

    def commit(self, objects: ObjectWriter, manifest: Manifest) -> None:
        """Commit *manifest* as a restore point.

        The order is fixed: flush *objects*, write the manifest under its name (the commit), update
        the catalog.

        Raises:
            StoreFailed: the point is not committed; or it is committed, the message says so, and
                the next writer catches the catalog up.
        """
        objects.flush()
        state = PointState(manifest.point)
        if self.shared is None:
            with storing("the restore point"):
                self.point_files.commit(manifest, state)
        else:
            self.put_point(manifest, encode_manifest(manifest), state)
        _, stamp = self.points.load_state(manifest.point)
        record = PointRecord(encode_manifest(manifest), encode_state(state), stamp)
        try:
            self.catalog.update(lambda update: update.put_point(manifest, record))
        except StoreFailed as exc:
            raise StoreFailed(f"point {manifest.point} is committed, but {exc}") from exc
        for disk in manifest.disks:
            if disk.ingest == "full":
                self.distrust.settle(disk.id, manifest.order)

    def forget(self, points: Collection[PointId]) -> None:
        """Forget *points*. The next prune frees the objects that only they reference.

        Renaming a manifest is the commit. The time does not depend on the size of the points.

        Raises:
            PointPinned: an overlay needs a point; nothing was forgotten.
        """
        with unpinned(self.path, points), storing("the folder of points"):
            self.points.forget(points)
        self.drop_forgotten(points)

    def drop_forgotten(self, points: Collection[PointId]) -> None:
        """Remove *points* from the catalog; their forgotten manifests are already written."""
        self._forgotten = None
        self.catalog.update(lambda update: _drop_points(update, points))

    def drop_forgotten_listing(self) -> None:
        """Make forgotten() list the directory again, after points were unforgotten."""
        self._forgotten = None

    def put_states(self, states: Iterable[PointState]) -> None:
        """Write *states*, in the state files and in the catalog."""
        changed = []
        with storing("a state file"):
            for state in states:
                self._see_state(state.point)
                self.points.put_state(state)
                changed.append(state.point)
        self.catalog.update(lambda update: _reload_states(update, self.points, changed))

    def _see_state(self, point: PointId) -> None:
        """Tell the points which state a change is relative to: that of the catalog."""
        if self.shared is not None:
            with self.catalog.view() as view:
                record = view.point(point)
            if record is not None:
                with contextlib.suppress(ValueError):
                    self.points.see_state(decode_state(record.state, point))


def _set_verified(update: Update, packs: Iterable[PackId]) -> None:
    numbers = update.pack_numbers()
    for pack in packs:
        if pack in numbers:
            update.set_verified(numbers[pack])


def _drop_points(update: Update, points: Collection[PointId]) -> None:
    for point in points:
        record = update.point(point)
        if record is not None:
            update.drop_point(decode_manifest(record.manifest))
    gone = update.missing & {*points}
    if gone:
        update.set_missing(update.missing - gone)


def _reload_states(update: Update, points: Points, changed: Iterable[PointId]) -> None:
    for point in changed:
        record = update.point(point)
        if record is not None:
            state, stamp = points.load_state(point)
            new = PointRecord(record.manifest, encode_state(state), stamp)
            update.put_point(decode_manifest(record.manifest), new)


class NewKeys(NamedTuple):
    """The files of keys of a new repository."""

    epoch: PreviousEpoch
    slots: Sequence[Slot]


def create_repository(path: Path, settings: Settings, keys: NewKeys | None = None) -> None:
    """Create a repository at *path*, which is an empty directory or does not exist.

    *keys* are those of an encrypted one. A repository in a bucket is created there; *path* is the
    directory of its local state.
    """
    url = remote_of(path)
    if url is not None:
        _create_in_bucket(path, url, settings, keys)
        return
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if has_record(path, SETTINGS):
            raise UsageError(f"{path} is already a repository") from None
        if not path.is_dir() or any(path.iterdir()):
            raise UsageError(f"{path} is not an empty directory: name one that is") from None
        path.chmod(0o700)
    except OSError as exc:
        raise UsageError(f"cannot create {path}: {exc.strerror}") from exc
    if keys is None:
        forget_path(path)
    with storing(f"the repository {path}"):
        create_places(path)
        if settings.is_shared:
            make_shared_places(path)
        make_folder(path / "locks")
        if keys is not None:
            create_slots(path, keys.epoch, keys.slots)
        for directory in DIRECTORIES:
            write_marker(path, settings.id, directory)
        Catalog(path / CATALOG, is_writable=True).close()
        create_record(path, SETTINGS, encode_settings(settings))
        sync_folder(path.absolute().parent)


def _create_in_bucket(path: Path, url: BucketUrl, settings: Settings, keys: NewKeys | None) -> None:
    bucket = bucket_of(path, url)
    with storing(f"the repository {url}"), state_locked(path):
        if has_record(path, SETTINGS):
            raise UsageError(
                f"{url} is already a repository, says its local state {path}: remove that "
                "directory if the bucket was emptied on purpose"
            )
        try:
            refuse_used(bucket)
            probe(bucket)
        except NoBucket as exc:
            raise UsageError(f"there is no bucket {url.bucket}: create it first") from exc
        Catalog(path / CATALOG, is_writable=True).close()
        data = encode_settings(settings)
        if keys is not None:
            drop_keys(path)
            create_slots(path, keys.epoch, keys.slots)
            put_keys(path, bucket)
        try:
            bucket.create(SETTINGS, data)
        except FileExistsError:
            raise UsageError(f"{url} is already a repository") from None
        create_record(path, SETTINGS, data)


def take_lock(path: Path, wait_seconds: float) -> WriterLock:
    """Take the writer's lock of the repository at *path*.

    Raises:
        RepositoryLocked: another writer holds the lock for longer than *wait_seconds*.
        DataCorrupt: locks/ is a symbolic link.
    """
    with storing("the writer's lock"):
        make_folder(path / "locks")
        with Folder(path / "locks") as folder:
            lock = WriterLock(folder.at / "writer", wait_seconds)
        finish_exchange(path / CATALOG)
    return lock


def _current_settings(path: Path) -> Settings:
    """Return the settings: the writer before may have changed them, and the key."""
    settings = load_settings(path)
    renew(path)
    return settings


@contextmanager
def writing(
    path: Path, *, lock_wait: float = 0.0, is_suspect: bool = False
) -> Iterator[Repository]:
    """Open the repository at *path* as its one writer, with the catalog caught up.

    The catalog is verified first if it *is_suspect* or if the last writer did not end cleanly. All
    descriptors of the repository are closed at the end of the block.

    Raises:
        RepositoryLocked: another writer holds the lock for longer than *lock_wait* seconds.
    """
    if load_settings(path).is_shared:
        with _sharing(path, is_suspect=is_suspect) as repository:
            yield repository
        return
    lock = take_lock(path, lock_wait)
    is_clean = False
    try:
        settings = _current_settings(path)
        if settings.is_shared:  # It was upgraded meanwhile.
            lock.release(is_clean=not lock.was_left_behind)
            with _sharing(path, is_suspect=is_suspect) as repository:
                yield repository
            return
        with storing("the repository"):
            is_unsure = is_suspect or lock.was_left_behind
            require_directories(path, settings.id, is_suspect=is_unsure)
            catalog, findings = open_catalog(path, must_verify=is_unsure)
            repository = _opened(path, settings, catalog, findings)
        try:
            with _in_use(repository):
                yield repository
            is_clean = True
        except StoreFailed:
            raise
        except BaseException:
            is_clean = True
            raise
        finally:
            repository.close()
    finally:
        lock.release(is_clean=is_clean)


@contextmanager
def _sharing(path: Path, *, is_suspect: bool) -> Iterator[Repository]:
    """Open the repository at *path* as one of several writers, with the catalog caught up."""
    from cbtfs.store.shared.upgrade import finish_upgrade

    settings = _current_settings(path)
    make_folder(path / "locks")
    if not settings.is_remote:  # A repository in a bucket always had shared writers.
        finish_upgrade(path)
    with closing(Turns(path / TURNS)) as turns:
        with storing("the repository"):
            require_directories(path, settings.id, is_suspect=is_suspect)
            catalog, findings = open_shared_catalog(path, turns, is_suspect=is_suspect)
            repository = _opened(path, settings, catalog, findings)
        try:
            with _in_use(repository):
                yield repository
        finally:
            repository.close()


@contextmanager
def _in_use(repository: Repository) -> Iterator[None]:
    """Keep the reserve while a writer works, and remember the newest points if it succeeds."""
    with repository.catalog.view() as view:
        largest = view.largest_pack()
    reserve.keep(repository.path, largest)
    yield
    remember_heads(repository.settings, repository.catalog)


def rebuild_catalog(
    path: Path, *, lock_wait: float = 0.0, progress: Progress = lambda _: None
) -> Findings:
    """Rebuild the catalog from packs and points, whatever the state of the current one.

    The old catalog stays in use until the new one replaces it, so an interruption is harmless.
    Nodes that only the old catalog still knows are written to new packs first. *progress* receives
    bytes of packs.
    """
    settings = load_settings(path)
    if settings.is_shared:
        with closing(Turns(path / TURNS)) as turns, turns.held() as turn, storing("the catalog"):
            require_directories(path, settings.id, is_suspect=True)
            findings = replace_catalog(path, settings.level, progress, turns)
            turn.is_unsure = False
            return findings
    lock = take_lock(path, lock_wait)
    is_clean = False
    try:
        settings = _current_settings(path)
        if not settings.is_shared:
            with storing("the catalog"):
                require_directories(path, settings.id, is_suspect=True)
                findings = replace_catalog(path, settings.level, progress)
            is_clean = True
            return findings
        is_clean = not lock.was_left_behind
    finally:
        lock.release(is_clean=is_clean)
    return rebuild_catalog(path, progress=progress)  # It was upgraded meanwhile.


@contextmanager
def reading(path: Path, *, is_suspect: bool = False) -> Iterator[Repository]:
    """Open the repository at *path* as one of many readers.

    If the catalog lags behind points/, there is no writer, and there is enough space, the catalog
    is caught up first: this includes a point that was committed just before a crash. A damaged
    catalog is rebuilt, by this process or another one. *is_suspect* verifies the catalog first.
    All descriptors of the repository are closed at the end of the block.
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
            log.warning("%s; restore points are listed from the catalog alone", exc)
        except StoreFailed as exc:
            log.warning("points that the catalog does not know yet are not listed: %s", exc)
    catalog = Catalog(
        path / CATALOG, is_writable=False, digester=digester_of(path), signer=signer_of(path)
    )
    with closing(_opened(path, settings, catalog)) as opened:
        yield opened


def _opened(
    path: Path, settings: Settings, catalog: Catalog, findings: Findings | None = None
) -> Repository:
    """Return a repository that owns *catalog*, which is closed after a failure."""
    try:
        repository = Repository(path, settings, catalog, findings)
    except BaseException:
        catalog.close()
        raise
    try:
        if settings.is_shared:
            with catalog.view() as view:
                repository.points.trust(view.point_ids(), view.runs)
        refuse_older(path, settings, catalog, repository.points)
    except BaseException:
        repository.close()
        raise
    return repository


def _look(path: Path) -> tuple[bool, bool]:
    """Return whether the catalog can be opened, and whether it knows all points."""
    try:
        catalog = Catalog(path / CATALOG, is_writable=False)
    except (RepositoryNotFound, CatalogDamaged):
        return False, False
    try:
        with catalog.view() as view, closing(open_point_folder(path)) as points:
            return True, lacks_nothing(view, points)
    except NoReply as exc:
        log.warning("points that the catalog does not know yet are not listed: %s", exc.strerror)
        return True, True
    except CatalogDamaged:
        return True, True
    finally:
        catalog.close()
