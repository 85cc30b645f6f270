"""A long-lived repository whose runs are killed again and again."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import MIN_BLOCK_BYTES
from cbtfs.ingest.plan import Want
from cbtfs.source.listed import ChangeList
from cbtfs.store.repository import create_repository
from cbtfs.store.settings import new_settings
from tools.crash.capture import IngestRun
from tools.crash.child import ChildExit, Work, run_child
from tools.crash.guest import GuestImage
from tools.crash.trap import Action, Trap, write_short
from tools.crash.verify import (
    Promise,
    Violation,
    catalog_is_as_rebuilt,
    promises_hold,
    repository_is_sound,
)

_SAMPLE: Final = 4
"""Old points to read again after each round; the last round reads all points."""


@dataclass(slots=True)
class CampaignCounts:
    """Counts of a campaign."""

    runs: int = 0
    kills: int = 0
    unacknowledged: int = 0
    """Points that a killed run committed but did not acknowledge."""


class Campaign:
    """A repository, a guest image, and a record of acknowledged points outside the repository."""

    def __init__(self, folder: Path, seed: int, repository: Path | None = None) -> None:
        self.repository = repository or folder / "repository"
        self.rnd = random.Random(seed)
        self.guest = GuestImage(folder / "disk.raw", self.rnd)
        self.counts = CampaignCounts()
        self._promised: dict[PointId, Promise | None] = {}
        self._last: tuple[PointId, int] | None = None
        settings = new_settings(MIN_BLOCK_BYTES, 1)
        expect_success(run_child(lambda send: create_repository(self.repository, settings)))

    def make_folders(self) -> None:
        """Create all pack folders, so that each later run makes the same calls."""
        for number in range(256):
            (self.repository / "packs" / f"{number:02x}").mkdir(0o700)

    @property
    def points(self) -> int:
        return len(self._promised)

    def next_capture(self) -> IngestRun:
        """Return a run of a new version: full, full scan, or by one of two kinds of change list."""
        self.guest.change()
        want: Want = self.rnd.choice(["auto", "auto", "auto", "auto", "full"])
        changes, since = self._changes()
        version = self.guest.version
        return IngestRun(self.repository, self.guest.path, version, want, changes, since)

    def _changes(self) -> tuple[ChangeList | None, PointId | None]:
        """Return a change list since the last acknowledged point, and that point; or neither."""
        if self._last is None or self.rnd.random() < 0.25:
            return None, None
        point, version = self._last
        extents = tuple((e.start, e.length) for e in self.guest.changed_since(version))
        since = point if self.rnd.random() < 0.4 else None
        return ChangeList(extents, since), since

    def run(
        self,
        capture: IngestRun,
        work: Work,
        *,
        kill_after: float | None = None,
        before_kill: Callable[[], None] = lambda: None,
    ) -> ChildExit:
        """Run *work* of *capture* in a child, and record the points that it acknowledged."""
        result = run_child(work, kill_after=kill_after, before_kill=before_kill)
        self.counts.runs += 1
        self.counts.kills += result.is_killed
        for point in result.values("point"):
            self._promised[point] = None
            self._last = point, capture.version
        return result

    def release(self, points: Iterable[PointId]) -> None:
        """Stop expecting these points: the caller is about to forget them."""
        for point in points:
            self._promised.pop(point, None)
            if self._last is not None and self._last[0] == point:
                self._last = None

    @property
    def promises(self) -> dict[PointId, Promise | None]:
        """Recorded facts of the points that must exist."""
        return dict(self._promised)

    def restart_from(self, promised: Mapping[PointId, Promise | None]) -> None:
        """Expect exactly these points: the repository was reset to an earlier state."""
        self._promised = dict(promised)
        if self._last is not None and self._last[0] not in promised:
            self._last = None

    @property
    def promised(self) -> list[PointId]:
        """Points that must exist, in the same order in each run of a seed."""
        return list(self._promised)

    def run_undisturbed(self) -> ChildExit:
        """Run without a fault; the run must succeed."""
        capture = self.next_capture()
        return expect_success(self.run(capture, capture.work()))

    def kill_after(self, seconds: float) -> ChildExit:
        """Kill a run after *seconds*, unless it has ended; then verify the repository."""
        capture = self.next_capture()
        result = self.run(capture, capture.work(), kill_after=seconds)
        if result.is_killed:
            self.prove()
        return result

    def trigger(self, at: int, action: Action, name: str | None = None) -> ChildExit:
        """Run with a trap on call number *at*, maybe of *name*, then verify the repository."""
        capture = self.next_capture()
        trap = Trap(at, action, name)
        result = self.run(capture, capture.work(trap.install))
        self.prove()
        return result

    def write_short(self) -> ChildExit:
        """Run with short writes; the run must succeed."""
        capture = self.next_capture()
        return expect_success(self.run(capture, capture.work(write_short)))

    def prove(self) -> None:
        """Verify that acknowledged points are intact, none is partial, and the next run works."""
        before = self.points
        self._verify_points(self.rnd.sample(sorted(self._promised), min(_SAMPLE, self.points)))
        self.counts.unacknowledged += self.points - before
        self.run_undisturbed()

    def prove_readable(self) -> None:
        """Verify that every acknowledged point exists, and read all its bytes."""
        self._verify_points(None)

    def prove_all(self) -> None:
        """Read every point, check all data, and compare the catalog with a rebuilt one."""
        self._verify_points(None)
        (problems,) = expect_success(run_child(repository_is_sound(self.repository))).values(
            "problems"
        )
        if problems:
            raise Violation(f"check reports {problems}")
        expect_success(run_child(catalog_is_as_rebuilt(self.repository)))
        self._verify_points(None)

    def _verify_points(self, read: list[PointId] | None) -> None:
        digests = self.guest.digests
        work = promises_hold(self.repository, self._promised, digests, read)
        (present,) = expect_success(run_child(work)).values("points")
        self._promised = {PointId(point): Promise(*promise) for point, promise in present.items()}


def expect_success(result: ChildExit) -> ChildExit:
    """Return *result*; raise Violation unless the child succeeded."""
    if result.code:
        raise Violation(f"a child exited with {result.code}: {result.messages}")
    return result
