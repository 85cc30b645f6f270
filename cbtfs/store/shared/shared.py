"""Actions in a repository with shared writers that one writer does not need."""

import threading
from collections.abc import Collection
from typing import Final

from cbtfs.core.ids import ObjectId
from cbtfs.core.manifest import Manifest, PointState, decode_manifest
from cbtfs.core.shared import RunId
from cbtfs.errors import ChunkMissing, DataCorrupt, StoreFailed
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catchup import Findings
from cbtfs.store.packs import PackFolder
from cbtfs.store.quarantine import CorruptFrame
from cbtfs.store.shared.avoided import Avoided
from cbtfs.store.shared.follow import follow
from cbtfs.store.shared.places import Places
from cbtfs.store.shared.points import CommitUnknown, Look, SharedPoints
from cbtfs.store.shared.session import Session
from cbtfs.store.storing import storing
from cbtfs.store.writer import ObjectWriter

_MAX_INTENTS: Final = 1000
"""Runs that a session announces at its begin; further ones are announced at their commit."""


class Shared:
    """The points, runs and looks of one process. Safe to use from several threads."""

    def __init__(self, places: Places, catalog: Catalog, packs: PackFolder) -> None:
        """Own *places*."""
        self.places = places
        self.points = SharedPoints(self.places)
        self._catalog = catalog
        self._packs = packs
        self._session = Session(self.places)
        self._avoided: Avoided | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Delete the intents that are left, and close the backends."""
        try:
            self._session.close()
        finally:
            self.points.close()

    @property
    def tag(self) -> str:
        """End of the names of the packs of this process."""
        return self._session.tag

    def follow(self, corrupt: Collection[CorruptFrame] = ()) -> tuple[Findings, Look]:
        """Look at points, prunes and packs, and bring the catalog in step."""
        # One look at a time: a look that began before an intent must not serve its run.
        with self._lock, storing("the catalog"):
            return follow(self._catalog, self._packs, self.points, corrupt)

    def announce(self, commits: int, corrupt: Collection[CorruptFrame]) -> Avoided:
        """Create the intents of *commits* runs, then look; return the objects to avoid."""
        with self._lock:
            with storing("an intent"):
                self._session.announce(min(commits, _MAX_INTENTS))
            self._avoided = self._look(corrupt)
            return self._avoided

    def _look(self, corrupt: Collection[CorruptFrame]) -> Avoided:
        _, look = self.follow(corrupt)
        return Avoided(self._catalog, self._packs, look.prunes.condemned)

    def take_run(self) -> RunId | None:
        """Return a run that was announced before the last look; None after the last one."""
        with self._lock:
            return self._session.take()

    def rescue_bases(self, objects: ObjectWriter) -> None:
        """Store objects that listed points need and that are in condemned packs once more.

        Then the points can be bases of captures.
        """
        avoided = self._avoided
        if avoided is None or avoided.is_empty:
            return
        with self._catalog.view() as view:
            manifests = [decode_manifest(record.manifest) for _, record in view.points()]
        numbers = avoided.endangered(manifests)
        if not numbers:
            return
        for number in sorted(numbers):
            self._rescue(objects, number)
        objects.flush()
        avoided.restore()

    def _rescue(self, objects: ObjectWriter, number: ObjectId) -> None:
        """Store one object again; one that cannot be read stays avoided."""
        with self._catalog.view() as view:
            location = view.location(number)
            record = None if location is None else view.pack(location.pack)
        if location is None or record is None:
            return
        try:
            encoded = self._packs.open(record.id).load_encoded(location.frame)
        except (ChunkMissing, DataCorrupt):
            return
        objects.rewrite(number, encoded)

    def commit(self, manifest: Manifest, data: bytes, state: PointState) -> RunId:
        """Commit a point under an announced run, or under one that is announced now; return it.

        A run that is announced now is safe, too: its look follows its intent, and every object of
        the point is then looked up.

        Raises:
            StoreFailed: the point is not committed, or the message says that this is unknown.
        """
        with self._lock:
            run, avoided = self._run_for(manifest)
            is_decided = True
            try:
                avoided.refuse_unusable(manifest)
                is_decided = False  # Also after an interruption, such as Ctrl-C.
                self._commit_run(run, data, state)
                is_decided = True
            except CommitUnknown:
                raise
            except StoreFailed:
                is_decided = True
                raise
            finally:
                if is_decided:
                    self._session.finish(run)
                else:
                    self._session.leave(run)
            return run

    def _commit_run(self, run: RunId, data: bytes, state: PointState) -> None:
        self.points.commit_run(run, data, state)
        if str(run) == state.point:
            return
        try:
            self._catalog.update(lambda update: update.add_runs({run: state.point}))
        except StoreFailed as exc:
            raise StoreFailed(f"point {state.point} is committed, but {exc}") from exc

    def is_fenced(self) -> bool:
        """Return whether a prune fenced this process as stale, and may delete its packs."""
        with storing("a pack"):
            return self._session.is_fenced()

    def _run_for(self, manifest: Manifest) -> tuple[RunId, Avoided]:
        """Return an announced run, and the objects to avoid after the look that followed.

        A copy has a run of its own, because another program may copy the same point.
        """
        if self._avoided is not None:
            if self._session.claim(RunId(manifest.point)):
                return RunId(manifest.point), self._avoided
            taken = self._session.take()
            if taken is not None:
                return taken, self._avoided
        self._session.announce(1)
        run = self._session.take()
        assert run is not None
        return run, self._look(())
