"""The points of a repository with shared writers: manifests, logs and states, each created once.

`points/<run>` is a manifest, which is the commit, or a tombstone. The log of a run says whether
its point is forgotten; verdicts name runs that are gone. A program lists points, then logs, then
verdicts. The run of a capture is the id of its point; that of a copy is another id.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PackId, PointId, is_id
from cbtfs.core.manifest import (
    Manifest,
    PointState,
    decode_state,
    encode_state,
    manifest_of,
    unknown_state,
)
from cbtfs.core.sealed import MAX_BYTES, unseal
from cbtfs.core.shared import (
    CANDIDATES,
    Candidates,
    Entry,
    Log,
    LogEntry,
    Prunes,
    RunId,
    Tombstone,
    Verdict,
    decode_candidates,
    decode_entry,
    decode_verdict,
    encode_entry,
    encode_tombstone,
    numbered,
    prunes_of,
    split_numbered,
    split_prune,
    tombstone_in,
)
from cbtfs.core.states import merge_states
from cbtfs.errors import DataCorrupt, PointNotFound, StoreFailed
from cbtfs.shortage import refuse_shortage
from cbtfs.store.identity import new_id
from cbtfs.store.points import Forgotten
from cbtfs.store.shared.numbered import all_numbers, newest_of, numbers_of, put_next
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.places import Places
from cbtfs.store.shared.requests import content_of, create_own, listed

_STAMP_NUMBER_BYTES: Final = 8


class RunFenced(StoreFailed):
    """Raised if a prune has fenced a run: its commit can no longer happen."""

    def __init__(self) -> None:
        super().__init__(
            "the point is not committed: a prune fenced this run, because it had no heartbeat for "
            "too long; run the command again"
        )


class CommitUnknown(StoreFailed):
    """Raised if it is unknown whether a commit has happened or will happen."""


@dataclass(frozen=True, slots=True)
class Look:
    """Points, logs and prunes, listed in this order."""

    manifests: Mapping[RunId, PointId]
    """Runs with a manifest, also forgotten and removed ones."""
    tombstones: frozenset[RunId]
    logs: Mapping[RunId, Log]
    prunes: Prunes
    living: Mapping[PointId, RunId] = field(default_factory=dict)
    """The points that are listed."""
    forgotten: Mapping[PointId, RunId] = field(default_factory=dict)
    """Forgotten points whose manifests are not named by a verdict."""
    removed: frozenset[PointId] = frozenset()
    """Points whose runs are all named by verdicts, as far as their ids are known."""

    def log(self, run: RunId) -> Log:
        return self.logs.get(run, Log())

    def runs_of(self, point: PointId) -> list[RunId]:
        """Return the runs with a manifest of *point* that no verdict names."""
        gone = self.prunes.runs
        return sorted(r for r, p in self.manifests.items() if p == point and r not in gone)


class SharedPoints:
    """The points of a repository; what PointFolder is for one writer."""

    entry_seconds = 10.0

    def __init__(self, places: Places) -> None:
        """Own *places*."""
        self._places = places
        self._points_of: dict[RunId, PointId] = {}
        """Points of runs, which never change."""
        self._tombstones: set[RunId] = set()
        self._entries: dict[str, LogEntry] = {}
        self._prune_parts: dict[str, Candidates | Verdict] = {}
        self._state_numbers: dict[RunId, int] = {}
        self._loaded: dict[PointId, PointState] = {}
        """The last state of each point that a caller has seen."""
        self._snapshots = threading.local()

    def close(self) -> None:
        """Close the backends."""
        self._places.close()

    def path(self, point: PointId) -> Path:
        """Return the path of a manifest, for messages."""
        return self._places.points.path(point)

    # Looking

    def trust(self, points: Iterable[PointId], runs: Mapping[RunId, PointId]) -> None:
        """Use what a catalog knows: ids are never used again, so nobody has to read these objects.

        *points* have captures; *runs* are those whose point has another id.
        """
        copied = {*runs.values()}
        self._points_of.update((RunId(p), p) for p in points if p not in copied)
        self._points_of.update(runs)

    def other_runs(self) -> dict[RunId, PointId]:
        """Return the known runs whose point has another id, for the catalog."""
        known = self._points_of.copy()  # Other threads may add to it.
        return {run: point for run, point in known.items() if str(run) != str(point)}

    @contextmanager
    def snapshot(self) -> Iterator[Look]:
        """Answer all questions about ids from one look, until the end of the block."""
        known = self._snapshot
        if known is not None:
            yield known
            return
        look = self._snapshots.look = self.look()
        try:
            yield look
        finally:
            self._snapshots.look = None

    @property
    def _snapshot(self) -> Look | None:
        """The look of this thread's snapshot."""
        look: Look | None = getattr(self._snapshots, "look", None)
        return look

    def look(self) -> Look:
        """List points, then logs, then prunes."""
        manifests: dict[RunId, PointId] = {}
        tombstones = set()
        for name in filter(is_id, self._places.points.names()):
            run = RunId(name)
            point = self._point_of(run)
            if point is not None:
                manifests[run] = point
            elif run in self._tombstones:
                tombstones.add(run)
        logs = self._logs()
        prunes = self.prunes()
        living: dict[PointId, RunId] = {}
        forgotten: dict[PointId, RunId] = {}
        for run in sorted(manifests.keys() - prunes.runs):
            is_listed = logs.get(run, Log()).entry is Entry.RESTORED
            (living if is_listed else forgotten).setdefault(manifests[run], run)
        for point in living:
            forgotten.pop(point, None)
        named = {self._points_of.get(run, PointId(run)) for run in prunes.runs}
        removed = frozenset(named - living.keys() - forgotten.keys())
        return Look(manifests, frozenset(tombstones), logs, prunes, living, forgotten, removed)

    def _looked(self) -> Look:
        return self._snapshot or self.look()

    def _point_of(self, run: RunId) -> PointId | None:
        """Return the point of a manifest; None for a tombstone and for an object that is gone."""
        known = self._points_of.get(run)
        if known is not None or run in self._tombstones:
            return known
        data = content_of(self._places.points, run)
        if data is None:
            return None
        try:
            document = unseal(data)
            if tombstone_in(document) is not None:
                self._tombstones.add(run)
                return None
            point = manifest_of(document).point
        except ValueError:
            return PointId(run)  # A damaged manifest; it is read again at the next look.
        self._points_of[run] = point
        return point

    def _logs(self) -> dict[RunId, Log]:
        logs: dict[RunId, Log] = {}
        for name, (run, number) in listed(self._places.logs, split_numbered):
            entry = self._entry(name)
            if entry is not None:
                logs[RunId(run)] = logs.get(RunId(run), Log()).then(number, entry.entry)
        return logs

    def log_of(self, run: RunId) -> Log:
        """Return the state of the log of a run."""
        log = Log()
        for number in numbers_of(self._places.logs, run):
            entry = self._entry(numbered(run, number))
            if entry is not None:
                log = log.then(number, entry.entry)
        return log

    def _entry(self, name: str) -> LogEntry | None:
        if name not in self._entries:
            data = content_of(self._places.logs, name)
            if data is None:
                return None
            try:
                self._entries[name] = decode_entry(data)
            except ValueError as exc:
                raise DataCorrupt(
                    f"{self._places.logs.path(name)} is damaged: {exc}; restore it from a copy"
                ) from exc
        return self._entries[name]

    def prunes(self) -> Prunes:
        """List candidates and verdicts."""
        candidates, verdicts = [], []
        for name, (_, part) in listed(self._places.prunes, split_prune):
            value = self._prune_part(name, part)
            if isinstance(value, Verdict):
                verdicts.append(value)
            elif value is not None:
                candidates.append(value)
        return prunes_of(candidates, verdicts)

    def _prune_part(self, name: str, part: str) -> Candidates | Verdict | None:
        if name not in self._prune_parts:
            data = content_of(self._places.prunes, name)
            if data is None:
                return None
            try:
                decode = decode_candidates if part == CANDIDATES else decode_verdict
                self._prune_parts[name] = decode(data)
            except ValueError as exc:
                raise DataCorrupt(
                    f"{self._places.prunes.path(name)} is damaged: {exc}; restore it from a copy"
                ) from exc
        return self._prune_parts[name]

    def ids(self) -> set[PointId]:
        """Return the points that are committed and not forgotten."""
        return {*self._looked().living}

    def forgotten_ids(self) -> set[PointId]:
        """Return the points that are forgotten, also those that a prune has removed."""
        look = self._looked()
        return {*look.forgotten} | look.removed

    def removed_packs(self) -> frozenset[PackId]:
        """Return the packs that verdicts name; they may still exist, or appear again."""
        return self._looked().prunes.packs

    # Manifests

    def _run_of(self, point: PointId, *, is_forgotten: bool = False) -> RunId:
        """Return the run whose manifest is that of *point*; usually they have one name."""
        if self._snapshot is None and self._points_of.get(RunId(point)) == point:
            return RunId(point)
        look = self._looked()
        run = (look.forgotten if is_forgotten else look.living).get(point)
        if run is None:
            run = next(iter(look.runs_of(point)), None)
        return RunId(point) if run is None else run

    def load_manifest(self, point: PointId) -> bytes:
        """Return the bytes of a manifest.

        Raises:
            PointNotFound: the manifest does not exist.
            DataCorrupt: it is damaged.
        """
        return self._load(self._run_of(point), point)[0]

    def read_manifest(self, point: PointId) -> Manifest:
        """Return a decoded manifest; raises the errors of load_manifest()."""
        return self._load(self._run_of(point), point)[1]

    def load_forgotten(self, point: PointId) -> bytes:
        """Return the bytes of the manifest of a forgotten point."""
        return self._load(self._run_of(point, is_forgotten=True), point)[0]

    def read_forgotten(self, point: PointId) -> Manifest:
        """Return the decoded manifest of a forgotten point."""
        return self._load(self._run_of(point, is_forgotten=True), point)[1]

    def read_run(self, run: RunId) -> Manifest:
        """Return the manifest of a run; raises the errors of load_manifest()."""
        return self._load(run, self._point_of(run) or PointId(run))[1]

    def forgotten(self) -> Forgotten:
        """Return all forgotten points whose manifests still exist."""
        manifests, is_complete = [], True
        for point, run in self._looked().forgotten.items():
            try:
                manifests.append(self._load(run, point)[1])
            except PointNotFound:
                continue
            except DataCorrupt:
                is_complete = False
        return Forgotten(tuple(manifests), is_complete)

    def _load(self, run: RunId, point: PointId) -> tuple[bytes, Manifest]:
        try:
            data = self._places.points.get(run, 0, MAX_BYTES + 1).data
            document = unseal(data)
            if tombstone_in(document) is not None:
                raise PointNotFound(f"point {point} is gone")
            manifest = manifest_of(document)
            if manifest.point != point:
                raise ValueError("it is the manifest of another point")
        except FileNotFoundError as exc:
            raise PointNotFound(f"point {point} is gone") from exc
        except OSError as exc:
            refuse_shortage(exc, f"cannot read manifest {run}")
            raise DataCorrupt(f"cannot read manifest {run}: {exc.strerror}") from exc
        except ValueError as exc:
            raise DataCorrupt(f"manifest {run} is damaged: {exc}") from exc
        return data, manifest

    # Commits

    def commit_run(self, run: RunId, manifest: bytes, state: PointState) -> None:
        """Commit a point under *run*, whose intent exists.

        Raises:
            RunFenced: a prune has fenced the run; there is no point.
            CommitUnknown: the storage does not answer; the intent must stay.
            StoreFailed: the storage failed; there is no point, and never will be.
        """
        points = self._places.points
        create_own(self._places.states, numbered(run, 0), encode_state(state))
        try:
            is_committed = create_own(points, run, manifest)
        except OSError as exc:
            is_committed = self._abandon(run, manifest, exc)
        if not is_committed or run in self._verdicts():
            raise RunFenced
        self._points_of[run] = state.point

    def _verdicts(self) -> frozenset[RunId]:
        """Return the runs that verdicts name, after a commit."""
        try:
            return self.prunes().runs
        except OSError as exc:
            raise CommitUnknown(
                f"the restore point was written, but {exc.strerror or exc}: see 'cbtfs list' once "
                "the storage works"
            ) from exc

    def _abandon(self, run: RunId, manifest: bytes, error: OSError) -> bool:
        """Prevent a commit without a reply; return whether it has happened all the same."""
        points, words = self._places.points, error.strerror or error
        try:
            if not create_own(points, run, encode_tombstone(Tombstone(run, run))):
                points.flush()  # The failed request may have left the name only in memory.
                return content_of(points, run) == manifest
        except OSError as exc:
            raise CommitUnknown(
                f"cannot write the restore point: {words}; it may exist: see 'cbtfs list' once the "
                "storage works"
            ) from exc
        raise StoreFailed(
            f"cannot write the restore point: {words}; it is not committed, run the command again"
        ) from error

    # States

    def state_stamps(self) -> dict[PointId, bytes]:
        """Return the stamp of each point's state, which changes with the state."""
        look = self._looked()
        numbers = all_numbers(self._places.states)
        self._state_numbers = {RunId(run): known[-1] for run, known in numbers.items()}
        return {
            point: _stamp(run, self._state_numbers[run])
            for point, run in look.living.items()
            if run in self._state_numbers
        }

    def load_state(self, point: PointId) -> tuple[PointState, bytes]:
        """Return the state of a point and its stamp; unknown_state() if it is unreadable."""
        run = self._run_of(point)
        try:
            found = self._newest_state(run)
        except (OSError, DataCorrupt):
            return unknown_state(point), b""
        if found is None:
            return unknown_state(point), b""
        number, data = found
        try:
            state = decode_state(data, point)
        except ValueError:
            state = unknown_state(point)
        self._loaded[point] = state
        return state, _stamp(run, number)

    def _newest_state(self, run: RunId) -> tuple[int, bytes] | None:
        """Return number and content of the newest state; begins at the number seen last."""
        number = self._state_numbers.get(run)
        found: tuple[int, bytes] | None = None
        while number is not None:
            data = content_of(self._places.states, numbered(run, number))
            if data is None:
                break
            found = number, data
            number += 1
        if found is None:
            found = newest_of(self._places.states, run)
        if found is not None:
            self._state_numbers[run] = found[0]
        return found

    def put_state(self, state: PointState) -> None:
        """Change the state of a point; keeps what another program has changed since it was read."""
        point = state.point
        run = self._run_of(point)
        base = self._loaded.get(point)

        def merged(newest: tuple[int, bytes] | None) -> bytes | None:
            new, theirs = state, None
            with suppress(ValueError):
                theirs = None if newest is None else decode_state(newest[1], point)
            if theirs is not None:
                new = merge_states(base or theirs, state, theirs)
            self._loaded[point] = new
            return None if new == theirs else encode_state(new)

        self._state_numbers[run] = put_next(self._places.states, run, merged)

    def see_state(self, state: PointState) -> None:
        """Take *state*, from the catalog, for the one that the caller changes."""
        self._loaded[state.point] = state

    # Forgetting

    def _append(self, run: RunId, entry: Entry, after: Entry) -> bool:
        """Append to the log of a run; return False if its state is not *after*."""
        token = new_id()
        while True:
            log = self.log_of(run)
            if log.entry is not after:
                return False
            data = encode_entry(LogEntry(run, entry, token, this_process()))
            if create_own(self._places.logs, numbered(run, log.number + 1), data):
                return True

    def forget(self, points: Iterable[PointId]) -> None:
        """Give the logs of points the entry `forgotten`. Leases on the points stay.

        Raises:
            PointNotFound: a point does not exist; the points before it are forgotten.
        """
        for point in points:
            runs = self.look().runs_of(point)
            done = [self._append(run, Entry.FORGOTTEN, Entry.RESTORED) for run in runs]
            if not any(done):
                raise PointNotFound(f"point {point} is gone")

    def unforget(self, points: Iterable[PointId]) -> None:
        """Give the logs of forgotten points the entry `restored`.

        Raises:
            PointNotFound: a prune has removed a point, or is about to.
        """
        for point in points:
            runs = self.look().runs_of(point)
            done = [r for r in runs if self._append(r, Entry.RESTORED, Entry.FORGOTTEN)]
            if not {*done} - self.prunes().runs:
                raise PointNotFound(
                    f"point {point} is gone: a prune has removed what it needs, or is about to"
                )

    def make_final(self, run: RunId) -> bool:
        """End the log of a forgotten run; return False if it was restored or has ended."""
        return self._append(run, Entry.FINAL, Entry.FORGOTTEN)

    def put_forgotten(self, point: PointId, manifest: bytes) -> None:
        """Write the manifest of a missing point as that of a forgotten one."""
        run = RunId(new_id())
        data = encode_entry(LogEntry(run, Entry.FORGOTTEN, new_id(), this_process()))
        create_own(self._places.logs, numbered(run, 1), data)
        create_own(self._places.points, run, manifest)
        self._points_of[run] = point

    def points_named(self, runs: Iterable[RunId]) -> set[PointId]:
        """Return the points of *runs* that have a known manifest."""
        return {self._points_of[run] for run in runs if run in self._points_of}

    def in_use(self, runs: Collection[RunId]) -> set[RunId]:
        """Return those of *runs* that readers need."""
        return self._places.presence.read(runs)

    @contextmanager
    def leased(self, point: PointId, *, is_open: bool = False) -> Iterator[None]:
        """Keep a point until the end of the block.

        *is_open* admits a forgotten point, for a process of a group that already has a lease.

        Raises:
            PointNotFound: the point does not exist or is forgotten.
        """
        with ExitStack() as stack:
            for run in self._leasable(point):
                try:
                    with ExitStack() as lease:
                        lease.enter_context(self._places.presence.reading(run, point))
                        log = self.log_of(run)
                        is_kept = log.entry is Entry.RESTORED or is_open
                        if is_kept and run not in self.prunes().runs:
                            stack.push(lease.pop_all())
                            break
                except FileNotFoundError:
                    continue
            else:
                raise PointNotFound(f"point {point} is gone")
            yield

    def _leasable(self, point: PointId) -> list[RunId]:
        if self._points_of.get(RunId(point)) == point:
            return [RunId(point), *(r for r in self.other_runs() if self._points_of[r] == point)]
        return self.look().runs_of(point)

    def remove_leftovers(self) -> None:
        """Do nothing: temporary files may be those of another writer."""

    def count_aside(self) -> int:
        """Return the number of temporary files, including those of active writers."""
        return self._places.points.unfinished()


def _stamp(run: RunId, number: int) -> bytes:
    return bytes.fromhex(run) + number.to_bytes(_STAMP_NUMBER_BYTES, "big")
