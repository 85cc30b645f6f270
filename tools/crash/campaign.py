"""A long-lived repository whose runs are killed over and over."""

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
from tools.crash.capture import Capture
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
"""Old points that are read again after each round; the end reads them all."""


@dataclass(slots=True)
class CampaignCounts:
    """What a campaign did."""

    runs: int = 0
    kills: int = 0
    unacknowledged: int = 0
    """Points of killed runs that were committed, though nobody was told."""


class Campaign:
    """One repository in *folder*, one guest, and a record of what was promised, outside of it."""

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
        """Make all folders that packs go to: from now on each run makes the same calls."""
        for number in range(256):
            (self.repository / "packs" / f"{number:02x}").mkdir(0o700)

    @property
    def points(self) -> int:
        return len(self._promised)

    def next_capture(self) -> Capture:
        """A run of a new version: in full, by digest, or by one of two kinds of list."""
        self.guest.change()
        want: Want = self.rnd.choice(["auto", "auto", "auto", "auto", "full"])
        changes, since = self._changes()
        version = self.guest.version
        return Capture(self.repository, self.guest.path, version, want, changes, since)

    def _changes(self) -> tuple[ChangeList | None, PointId | None]:
        """A list since the last point that was acknowledged: later ones, nobody knows of."""
        if self._last is None or self.rnd.random() < 0.25:
            return None, None
        point, version = self._last
        extents = tuple((e.start, e.length) for e in self.guest.changed_since(version))
        since = point if self.rnd.random() < 0.4 else None
        return ChangeList(extents, since), since

    def run(
        self,
        capture: Capture,
        work: Work,
        *,
        kill_after: float | None = None,
        before_kill: Callable[[], None] = lambda: None,
    ) -> ChildExit:
        """Let a child do *work* on *capture*, and note what it acknowledged."""
        outcome = run_child(work, kill_after=kill_after, before_kill=before_kill)
        self.counts.runs += 1
        self.counts.kills += outcome.is_killed
        for point in outcome.values("point"):
            self._promised[point] = None
            self._last = point, capture.version
        return outcome

    def release(self, points: Iterable[PointId]) -> None:
        """Expect these points no more: somebody is about to forget them."""
        for point in points:
            self._promised.pop(point, None)
            if self._last is not None and self._last[0] == point:
                self._last = None

    @property
    def promises(self) -> dict[PointId, Promise | None]:
        """What is known of the points that must be there."""
        return dict(self._promised)

    def restart_from(self, promised: Mapping[PointId, Promise | None]) -> None:
        """Expect just these points: the repository was put back to a moment when they were."""
        self._promised = dict(promised)
        if self._last is not None and self._last[0] not in promised:
            self._last = None

    @property
    def promised(self) -> list[PointId]:
        """Points that must be there, the same in each run of a seed."""
        return list(self._promised)

    def run_undisturbed(self) -> ChildExit:
        """A run that nothing disturbs; it must work."""
        capture = self.next_capture()
        return expect_success(self.run(capture, capture.work()))

    def kill_after(self, seconds: float) -> ChildExit:
        """A run that is killed at that moment, unless it is over; then the proof of no harm."""
        capture = self.next_capture()
        outcome = self.run(capture, capture.work(), kill_after=seconds)
        if outcome.is_killed:
            self.prove()
        return outcome

    def trigger(self, at: int, action: Action) -> ChildExit:
        """A run with a trap on its call number *at*, then the proof that no harm was done."""
        capture = self.next_capture()
        trap = Trap(at, action)
        outcome = self.run(capture, capture.work(trap.install))
        self.prove()
        return outcome

    def write_short(self) -> ChildExit:
        """A run whose writes are cut short by the system; it must work."""
        capture = self.next_capture()
        return expect_success(self.run(capture, capture.work(write_short)))

    def prove(self) -> None:
        """No promised point is lost or changed, none is half there, and the next run works."""
        before = self.points
        self._look(self.rnd.sample(sorted(self._promised), min(_SAMPLE, self.points)))
        self.counts.unacknowledged += self.points - before
        self.run_undisturbed()

    def prove_readable(self) -> None:
        """Every promised point is there and reads to the last byte."""
        self._look(None)

    def prove_all(self) -> None:
        """Every point to the last byte, a check of everything, and a catalog like a rebuilt one."""
        self._look(None)
        (problems,) = expect_success(run_child(repository_is_sound(self.repository))).values(
            "problems"
        )
        if problems:
            raise Violation(f"a check finds {problems}")
        expect_success(run_child(catalog_is_as_rebuilt(self.repository)))
        self._look(None)

    def _look(self, read: list[PointId] | None) -> None:
        digests = self.guest.digests
        work = promises_hold(self.repository, self._promised, digests, read)
        (found,) = expect_success(run_child(work)).values("points")
        self._promised = {PointId(point): Promise(*promise) for point, promise in found.items()}


def expect_success(outcome: ChildExit) -> ChildExit:
    """*outcome*, if it is that of a child that ended well."""
    if outcome.code:
        raise Violation(f"a child ended with {outcome.code}: {outcome.messages}")
    return outcome
