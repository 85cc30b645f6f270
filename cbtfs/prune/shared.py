"""Prune of a repository with shared writers (docs/decisions/0046, "Prune").

It takes no lock. Marking and rewriting wait for nobody. Packs are deleted after the runs have ended
that may use them, by this prune or by a later one on any host. Several prunes at once are safe.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from cbtfs.core.frame import Frame
from cbtfs.core.ids import DiskId, ObjectId, PackId, PointId, is_id
from cbtfs.core.manifest import Manifest
from cbtfs.core.shared import (
    CANDIDATES,
    VERDICT,
    Candidates,
    Entry,
    PruneId,
    Prunes,
    RunId,
    Tombstone,
    Verdict,
    decode_intent,
    decode_verdict,
    encode_candidates,
    encode_tombstone,
    encode_verdict,
    of_prune,
    split_numbered,
    tag_of,
)
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound, UsageError
from cbtfs.liveness import Marker, ObjectSet
from cbtfs.prune.result import PruneResult, StartProgress
from cbtfs.prune.select import PackSelection, PackUse, PruneLimits, select
from cbtfs.prune.space import Space, step_bytes, take_step
from cbtfs.prune.survey import Survey, survey_packs
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.file_indexes import FileIndexes
from cbtfs.store.identity import new_id, new_pack_id
from cbtfs.store.pack import PackWriter
from cbtfs.store.pins import pins_in
from cbtfs.store.repository import Repository
from cbtfs.store.shared.avoided import frames_of
from cbtfs.store.shared.looks import Looks
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.points import Look
from cbtfs.store.shared.requests import content_of, create_own, listed
from cbtfs.store.shared.shared import Shared
from cbtfs.store.storing import storing

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
_ATTEMPTS: Final = 5
"""Looks at the points, because another prune may remove one between its listing and its reading."""
_MAX_CANDIDATES: Final = 100_000
"""Packs of one prune: the objects that name them stay far below the limit of sealed files."""


@dataclass(frozen=True, slots=True)
class _Roots:
    """The points that a mark starts from, and those that are over."""

    look: Look
    living: Mapping[RunId, Manifest]
    over: Mapping[RunId, Manifest | None]
    """Final points that nobody uses; None if the manifest cannot be read."""
    used: int
    """Forgotten points that a pin or a reader keeps."""
    prunes: Prunes


@dataclass(slots=True)
class _Counts:
    """Changes that this prune has made."""

    removed_packs: int = 0
    removed_bytes: int = 0
    written_bytes: int = 0
    forgotten: int = 0
    waiting_packs: int = 0
    waiting_writers: int = 0


class _Packs(Container[int]):
    """Numbers of the packs of a catalog to which other writers add packs."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: Collection[int] = ()

    def __contains__(self, number: object) -> bool:
        if number not in self._known:
            with self._catalog.view() as view:
                self._known = view.packs().keys()
        return number in self._known


class SharedPrune:
    """One prune."""

    def __init__(
        self,
        repository: Repository,
        shared: Shared,
        limits: PruneLimits,
        start_progress: StartProgress,
        pack_bytes: int,
    ) -> None:
        if limits.rekeys:
            raise UsageError(
                "--rekey does not work on a repository with shared writers: copy it to a new one "
                "with 'cbtfs copy' to encrypt everything under a new key"
            )
        self._repository = repository
        self._shared = shared
        self._places = shared.places
        self._points = shared.points
        self._packs = repository.packs
        self._catalog = repository.catalog
        self._limits = limits
        self._start_progress = start_progress
        self._pack_bytes = pack_bytes
        self._space = Space(repository.path)
        self._counts = _Counts()
        self._damaged: list[str] = []
        self._postponed: list[PackUse] = []

    def run(self, patience: float) -> PruneResult:
        """Complete earlier prunes, then begin one and complete it if no run is in the way.

        Waits for runs of other writers at most *patience* seconds.

        Raises:
            DataCorrupt: an object that a point needs is missing; nothing is deleted.
            StoreFailed: the storage failed; a later prune continues.
        """
        with storing("the repository"):
            return self._run(patience)

    def _run(self, patience: float) -> PruneResult:
        due = time.monotonic() + patience
        self._pinned()  # A damaged pin ends the prune before it changes anything.
        looks = self._places.looks()
        try:
            _, look = self._shared.follow()
            for prune, packs in look.prunes.unfinished.items():
                self._finish(prune, packs, looks, due)
            self._fence_stale()
            self._make_final()
            roots, marked = self._mark("marking")
            survey = self._survey(roots, marked)
            chosen = self._select(survey, roots)
            dropped = self._rewrite(chosen, marked)
            packs = frozenset(pack.id for pack in dropped[:_MAX_CANDIDATES])
            if packs or self._superseded(roots) or roots.look.tombstones:
                prune = PruneId(new_id())
                data = encode_candidates(Candidates(prune, packs, this_process()))
                with storing("the candidates of a prune"):
                    create_own(self._places.prunes, of_prune(prune, CANDIDATES), data)
                self._finish(prune, packs, looks, due)
            self._sweep()
        finally:
            prunes = self._points.prunes()
            # A session that ended without a reply to a commit has left only the intent of its run.
            names = {*filter(is_id, self._places.intents.names())} | self._sessions()
            names |= self._places.presence.holds()
            looks.forget(prunes.unfinished.keys(), names)
            looks.save()
        return self._result(roots, survey)

    def expected(self, without: Collection[PointId]) -> PruneResult:
        """Return what a prune would do if the points in *without* were forgotten."""
        self._pinned()  # A damaged pin ends the prune before it changes anything.
        roots, marked = self._mark("marking", without, is_dry_run=True)
        survey = self._survey(roots, marked)
        chosen = self._select(survey, roots)
        removed = (*chosen.removed, *chosen.rewritten)
        rewritten = sum(pack.used_bytes for pack in chosen.rewritten)
        gone = {pack.number for pack in removed}
        return PruneResult(
            True,
            len(roots.living) - roots.used,
            roots.used,
            sum(pack.size for pack in survey.packs),
            sum(pack.size for pack in removed) - rewritten,
            sum(pack.unused_bytes for pack in survey.packs if pack.number not in gone),
            rewritten,
            survey.dead_objects,
            survey.dead_bytes,
            survey.shared_objects,
            survey.shared_bytes,
            len(removed),
            len(self._superseded(roots)),
        )

    # Roots

    def _pinned(self) -> set[PointId]:
        return {pin.point for pin in pins_in(self._places.pins)}

    def _make_final(self) -> None:
        """Give each forgotten point that no pin and no reader needs a final entry."""
        look = self._points.look()
        forgotten = [
            run
            for run in look.manifests.keys() - look.prunes.runs
            if look.log(run).entry is Entry.FORGOTTEN
        ]
        pinned, used = self._pinned(), self._points.in_use(forgotten)
        with storing("the log of a point"):
            for run in forgotten:
                if run not in used and look.manifests[run] not in pinned:
                    self._points.make_final(run)

    def _roots(self, without: Collection[PointId] = (), *, is_dry_run: bool = False) -> _Roots:
        """List points and logs, then pins and readers, then prunes.

        In a dry run, forgotten points that nobody uses count as final.

        Raises:
            DataCorrupt: the manifest of a point that stays cannot be read.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._listed_roots(without, is_dry_run=is_dry_run)
            except PointNotFound as exc:
                log.info("looking again: %s, because another prune has removed it", exc)
        return self._listed_roots(without, is_dry_run=is_dry_run)

    def _listed_roots(self, without: Collection[PointId], *, is_dry_run: bool) -> _Roots:
        look = self._points.look()
        ends = {Entry.FINAL, Entry.FORGOTTEN} if is_dry_run else {Entry.FINAL}
        runs = look.manifests.keys() - look.prunes.runs
        ended = {
            run for run in runs if look.log(run).entry in ends or look.manifests[run] in without
        }
        pinned, used = self._pinned(), self._points.in_use(ended)
        prunes = self._points.prunes()
        living: dict[RunId, Manifest] = {}
        over: dict[RunId, Manifest | None] = {}
        kept = 0
        for run in sorted(runs):
            is_used = run in used or look.manifests[run] in pinned
            if run in ended and not is_used:
                over[run] = self._read(run)
                continue
            living[run] = self._points.read_run(run)
            kept += run in ended or look.log(run).entry is not Entry.RESTORED
        return _Roots(look, living, over, kept, prunes)

    def _read(self, run: RunId) -> Manifest | None:
        try:
            return self._points.read_run(run)
        except DataCorrupt as exc:
            log.warning("%s; the forgotten point is kept because its disks are unknown", exc)
            return None

    def _superseded(self, roots: _Roots) -> list[RunId]:
        """Return points that are over and whose manifests are not needed any more.

        The newest manifest of each disk stays: it is the base of a change list that names no point.
        """
        known = {run: manifest for run, manifest in roots.over.items() if manifest is not None}
        newest: dict[DiskId, int] = {}
        for manifest in (*roots.living.values(), *known.values()):
            for disk in manifest.disks:
                newest[disk.id] = max(newest.get(disk.id, 0), manifest.order)
        return [
            run
            for run, manifest in known.items()
            if all(newest[disk.id] > manifest.order for disk in manifest.disks)
        ]

    # Mark

    def _mark(
        self, step: str, without: Collection[PointId] = (), *, is_dry_run: bool = False
    ) -> tuple[_Roots, ObjectSet]:
        """List the roots, learn their packs, and mark their objects.

        Raises:
            DataCorrupt: an object that a root needs is missing.
        """
        roots = self._roots(without, is_dry_run=is_dry_run)
        while True:
            self._shared.follow()
            try:
                return roots, self._mark_living(roots, step)
            except DataCorrupt:
                before, roots = roots, self._roots(without, is_dry_run=is_dry_run)
                if before.living.keys() <= roots.living.keys():
                    raise
                # Another prune has removed a point since.

    def _survey(self, roots: _Roots, marked: ObjectSet) -> Survey:
        """Survey the packs, and the objects of points that are over."""
        forgotten = Marker(self._catalog, _Packs(self._catalog))
        for manifest in roots.over.values():
            for disk in () if manifest is None else manifest.disks:
                try:
                    forgotten.mark_disk(disk)
                except (ChunkMissing, DataCorrupt):
                    continue  # An earlier prune removed it.
        with self._catalog.view() as view:
            return survey_packs(view, marked, forgotten.marked)

    def _mark_living(self, roots: _Roots, step: str) -> ObjectSet:
        marker = Marker(self._catalog, _Packs(self._catalog))
        manifests = sorted(roots.living.values(), key=lambda m: (m.vm.id, m.order))
        total = sum(disk.size for manifest in manifests for disk in manifest.disks)
        with self._start_progress(step, total) as advance:
            try:
                marker.mark(manifests, advance)
            except (ChunkMissing, DataCorrupt) as exc:
                raise DataCorrupt(
                    f"nothing was removed, because a needed object is unreadable: {exc}; "
                    "run check, then repair, or forget that point"
                ) from exc
        return marker.marked

    def _select(self, survey: Survey, roots: _Roots) -> PackSelection:
        """Choose packs; those that belong to a running writer and condemned ones stay."""
        present = self._packs.ids()
        tags = {tag_of(session) for session in self._sessions()}
        avoided = roots.prunes.packs | roots.prunes.condemned
        usable = [
            pack
            for pack in survey.packs
            if pack.id in present and pack.id not in avoided and not pack.id.endswith(tuple(tags))
        ]
        return select(usable, self._limits)

    def _sessions(self) -> set[str]:
        """Return the sessions that have intents."""
        sessions = set()
        for name in filter(is_id, self._places.intents.names()):
            data = content_of(self._places.intents, name)
            if data is not None:
                sessions.add(_session_in(name, data))
        return sessions

    # Rewriting

    def _rewrite(self, chosen: PackSelection, marked: ObjectSet) -> list[PackUse]:
        """Copy needed objects of sparse packs to new ones; return the packs to delete."""
        emptied = [*chosen.removed]
        remaining = deque(chosen.rewritten)
        tag = tag_of(new_id())
        total = sum(pack.live_bytes for pack in chosen.rewritten)
        with self._start_progress("rewriting", total) as advance:
            while remaining:
                free = self._space.free
                step = take_step(remaining, free, self._space.catalog, self._pack_bytes)
                if not step:
                    break
                try:
                    writer = self._packs.create(new_pack_id(tag))
                    emptied += self._rewrite_step(step, writer, marked, advance)
                except OSError as exc:
                    log.warning("cannot write a pack: %s", exc.strerror)
                    remaining.extendleft(reversed(step))
                    break
        self._postponed = [*remaining]
        return emptied

    def _rewrite_step(
        self,
        step: Iterable[PackUse],
        writer: PackWriter,
        marked: ObjectSet,
        advance: Callable[[int], None],
    ) -> list[PackUse]:
        """Write the needed objects of *step* to one new pack; return the packs that have none."""
        moves: list[tuple[ObjectId, Location, Frame]] = []
        emptied = []
        try:
            for pack in step:
                if self._copy(pack, writer, marked, moves):
                    emptied.append(pack)
                advance(pack.live_bytes)
            if not moves:
                writer.abandon()
                return emptied
            size = writer.close()
        except BaseException:
            writer.abandon()
            raise
        self._counts.written_bytes += size
        self._space.wrote(size)
        self._catalog.update(lambda update: _enter(update, writer, size, moves))
        return emptied

    def _copy(
        self,
        pack: PackUse,
        writer: PackWriter,
        marked: ObjectSet,
        moves: list[tuple[ObjectId, Location, Frame]],
    ) -> bool:
        """Copy the needed objects of a pack; return whether all of them were readable."""
        try:
            frames, _ = self._packs.frames(pack.id)
        except (DataCorrupt, ChunkMissing) as exc:
            self._damaged.append(f"pack {pack.id} stays unchanged: {exc}")
            return False
        is_emptied = True
        with self._catalog.view() as view:
            living = [
                (number, frame)
                for frame in frames
                for number in view.find_all(frame.kind, frame.level, frame.digest)
                if number in marked and view.location(number) == Location(pack.number, frame)
            ]
        for number, frame in living:
            try:
                encoded = self._packs.open(pack.id).load_encoded(frame)
            except (DataCorrupt, ChunkMissing) as exc:
                self._damaged.append(f"pack {pack.id} stays: an object cannot be read: {exc}")
                is_emptied = False
                continue
            moves.append((number, Location(pack.number, frame), writer.append(encoded)))
        return is_emptied

    # Completion

    def _finish(
        self, prune: PruneId, candidates: frozenset[PackId], looks: Looks, due: float
    ) -> None:
        """Complete a prune whose candidates exist, also one that another process has begun."""
        intents = [RunId(name) for name in filter(is_id, self._places.intents.names())]
        awaited = looks.awaited(prune, intents)
        waiting = {self._await(run, prune, due) for run in awaited} - {None}
        if waiting:
            self._counts.waiting_packs += len(candidates)
            self._counts.waiting_writers = max(self._counts.waiting_writers, len(waiting))
            return
        roots, marked = self._mark("verifying")
        packs = self._decide(candidates, roots, marked)
        runs = roots.look.tombstones | {*self._superseded(roots)}
        verdict = Verdict(prune, packs, frozenset(runs), new_id())
        name = of_prune(prune, VERDICT)
        with storing("the verdict of a prune"):
            if not create_own(self._places.prunes, name, encode_verdict(verdict)):
                data = content_of(self._places.prunes, name)
                if data is not None:
                    decode_verdict(data)  # The sweep follows it.

    def _fence_stale(self) -> None:
        """Fence stale runs, whose packs would otherwise count as those of a running writer."""
        by = PruneId(new_id())
        for run in filter(is_id, self._places.intents.names()):
            self._await(RunId(run), by, 0.0)

    def _await(self, run: RunId, prune: PruneId, due: float) -> str | None:
        """Wait until a run has committed or cannot commit any more; fence a stale one.

        Return its session if it still may commit when the time is over.
        """
        while True:
            data = content_of(self._places.intents, run)
            if data is None:
                return None
            session = _session_in(run, data)
            if self._has_committed(run):
                self._drop_intent(run, session)
                return None
            with self._places.presence.over(session) as is_over:
                if is_over:
                    tombstone = encode_tombstone(Tombstone(run, prune))
                    with storing("a tombstone"):
                        create_own(self._places.points, run, tombstone)
                    self._drop_intent(run, session)
                    return None
            left = due - time.monotonic()
            if left <= 0:
                return session
            time.sleep(min(_POLL_SECONDS, left))

    def _has_committed(self, run: RunId) -> bool:
        return content_of(self._places.points, run) is not None

    def _drop_intent(self, run: RunId, session: str) -> None:
        self._places.intents.delete(run)
        if run == session:
            self._places.presence.ended(session)

    def _decide(
        self, candidates: frozenset[PackId], roots: _Roots, marked: ObjectSet
    ) -> frozenset[PackId]:
        """Return the candidates without a needed object that has no copy in a pack that stays."""
        present = self._packs.ids()
        avoided = roots.prunes.packs | roots.prunes.condemned | candidates
        dropped = {*candidates} - present
        with self._catalog.view() as view:
            numbers = view.pack_numbers()
        staying = {number for pack, number in numbers.items() if pack in present - avoided}
        for pack in sorted(candidates & present):
            frames = frames_of(self._packs, [pack]).get(pack)
            if frames is None:
                if pack in self._packs.ids():
                    continue  # It cannot be read now, so nobody knows what it has.
                dropped.add(pack)
            elif self._is_needed(frames, marked, staying):
                if pack in numbers:
                    staying.add(numbers[pack])
            else:
                dropped.add(pack)
        return frozenset(dropped)

    def _is_needed(
        self, frames: Iterable[Frame], marked: ObjectSet, staying: Collection[int]
    ) -> bool:
        with self._catalog.view() as view:
            for frame in frames:
                for number in view.find_all(frame.kind, frame.level, frame.digest):
                    if number not in marked:
                        continue
                    location = view.location(number)
                    if location is None or location.pack not in staying:
                        return True
        return False

    def _sweep(self) -> None:
        """Delete what verdicts name, also what reappeared; then candidates of finished prunes."""
        prunes = self._points.prunes()
        for pack in sorted(self._packs.ids() & prunes.packs):
            self._remove_pack(pack)
        runs: frozenset[str] = prunes.runs
        gone = [RunId(name) for name in self._places.points.names() if name in runs]
        points = self._points.points_named(gone)
        with storing("the folder of points"):
            for run in gone:
                self._places.points.delete(run)
            for backend in (self._places.logs, self._places.states):
                for name, (run_name, _) in [*listed(backend, split_numbered)]:
                    if run_name in runs:
                        backend.delete(name)
            for prune in prunes.finished:
                self._places.prunes.delete(of_prune(prune, CANDIDATES))
        self._counts.forgotten += len(points)
        if points:
            self._repository.forget_heads(points)
            with closing(FileIndexes(self._repository.path)) as indexes:
                indexes.drop(points)
        self._shared.follow()

    def _remove_pack(self, pack: PackId) -> None:
        try:
            size = self._packs.size(pack)
        except OSError:
            size = 0
        with storing("a pack"):
            self._packs.remove(pack)
        self._counts.removed_packs += 1
        self._counts.removed_bytes += size

    def _result(self, roots: _Roots, survey: Survey) -> PruneResult:
        counts = self._counts
        size = sum(pack.size for pack in survey.packs)
        used = sum(pack.used_bytes for pack in survey.packs)
        freed = counts.removed_bytes - counts.written_bytes
        return PruneResult(
            False,
            len(roots.living) - roots.used,
            roots.used,
            size,
            freed,
            max(size - freed - used, 0),
            counts.written_bytes,
            survey.dead_objects,
            survey.dead_bytes,
            survey.shared_objects,
            survey.shared_bytes,
            counts.removed_packs,
            counts.forgotten,
            tuple(self._damaged),
            len(self._postponed),
            sum(pack.unused_bytes for pack in self._postponed),
            min((step_bytes([p], self._space.catalog) for p in self._postponed), default=0),
            waiting_packs=counts.waiting_packs,
            waiting_writers=counts.waiting_writers,
        )


def _session_in(name: str, data: bytes) -> str:
    """Return the session of an intent; a damaged intent is one of its own."""
    try:
        return decode_intent(data).writer
    except ValueError:
        return name


def _enter(
    update: Update,
    writer: PackWriter,
    size: int,
    moves: Iterable[tuple[ObjectId, Location, Frame]],
) -> None:
    """Enter a new pack, and move the objects that are still where they were."""
    number = update.find_pack(writer.id, 1) or update.add_pack(writer.id, size, len(writer.frames))
    for moved, before, frame in moves:
        if update.location(moved) == before:
            update.move_object(moved, Location(number, frame))
