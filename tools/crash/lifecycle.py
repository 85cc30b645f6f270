"""A repository that lifecycle: points come and go, space is given back, the catalog is made anew.

Any of it is killed or meets a failing call, on one repository, over and over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cbtfs.core.ids import PointId
from cbtfs.prune.prune import prune
from cbtfs.prune.select import Limits
from cbtfs.repair import repair
from cbtfs.store.repository import reading, writing
from cbtfs.store.reserve import released
from tools.crash.campaign import Campaign, expect_success
from tools.crash.capture import LOCK_WAIT
from tools.crash.child import ChildExit, Send, Work, run_child
from tools.crash.trap import Action, Trap
from tools.crash.verify import Violation

Operation = Literal["ingest", "forget", "prune", "repair"]
OPERATIONS: Final[tuple[Operation, ...]] = ("ingest", "forget", "prune", "repair")

_PACK_BYTES: Final = 256 << 10
_MOST: Final = 12
"""Points that are kept, about: enough to share, few enough to read."""

Prepare = Callable[[Send], None]


def unprepared(send: Send) -> None:
    """Come as you are."""


def forgetting(path: Path, points: Sequence[PointId], prepare: Prepare) -> Work:
    """Work that forgets *points* and acknowledges it."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "forget"})
        with released(path), writing(path, lock_wait=LOCK_WAIT) as repository:
            there = repository.points.ids()
            repository.forget([point for point in points if point in there])
            send({"forgot": list(points)})

    return run


def pruning(path: Path, prepare: Prepare) -> Work:
    """Work that gives back all that can be given back."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "prune"})
        with released(path), writing(path, lock_wait=LOCK_WAIT) as repository:
            outcome = prune(repository, Limits(unused_share=0.0), pack_bytes=_PACK_BYTES)
            send({"freed": outcome.freed_bytes})

    return run


def repairing(path: Path, prepare: Prepare) -> Work:
    """Work that makes the catalog anew."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "repair"})
        repair(path, lock_wait=LOCK_WAIT)

    return run


def none_reappeared(path: Path, gone: Sequence[PointId]) -> Work:
    """Work that fails with a Violation if a point is listed that was forgotten."""

    def look(send: Send) -> None:
        with reading(path) as repository, repository.catalog.view() as view:
            back = {*gone} & {*view.point_ids()}
        if back:
            raise Violation(f"points are back that were forgotten: {sorted(back)}")

    return look


@dataclass(slots=True)
class Lifecycle:
    """What is done to one Campaign's repository besides capturing."""

    campaign: Campaign
    gone: list[PointId] = field(default_factory=list)
    """Points whose end was acknowledged."""
    kills: dict[Operation, int] = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    triggered: set[str] = field(default_factory=set)
    unacknowledged: int = 0
    """Points that were committed though nobody was told."""
    _known: set[PointId] = field(default_factory=set)

    def next_operation(self) -> Operation:
        if self.campaign.points > _MOST:
            return "forget"
        return self.campaign.rnd.choice(OPERATIONS)

    def run(
        self,
        operation: Operation,
        *,
        kill_after: float | None = None,
        before_kill: Callable[[], None] = lambda: None,
        prepare: Prepare = unprepared,
        before: Callable[[], None] = lambda: None,
    ) -> ChildExit:
        """Let a child do it, and note what it acknowledged and how it ended.

        *prepare* is what the child does first: a trap, perhaps. *before* is called when it is clear
        what a capture will capture.
        """
        campaign = self.campaign
        if operation == "ingest":
            capture = campaign.next_capture()
            before()
            outcome = campaign.run(
                capture, capture.work(prepare), kill_after=kill_after, before_kill=before_kill
            )
        else:
            work = self._work(operation, prepare)
            outcome = run_child(work, kill_after=kill_after, before_kill=before_kill)
        for points in outcome.values("forgot"):
            self.gone += points
        self.kills[operation] += outcome.is_killed
        self.triggered.update(outcome.values("triggered"))
        return outcome

    def _work(self, operation: Operation, prepare: Prepare) -> Work:
        path = self.campaign.repository
        if operation == "prune":
            return pruning(path, prepare)
        if operation == "repair":
            return repairing(path, prepare)
        points = self.campaign.promised
        chosen = self.campaign.rnd.sample(points, max(len(points) // 3, min(1, len(points))))
        self.campaign.release(chosen)
        return forgetting(path, chosen, prepare)

    def prove(self) -> None:
        """Nothing promised is lost or changed, nothing forgotten is back, the next run works."""
        expect_success(run_child(none_reappeared(self.campaign.repository, self.gone)))
        self._known.update(self.campaign.promised)
        self.campaign.prove()
        found = {*self.campaign.promised} - self._known
        self.unacknowledged += (
            len(found) - 1
        )  # one is of the run that proves that the next run works
        self._known |= found

    def prove_readable(self) -> None:
        """Everything promised is there and reads right; nothing is written."""
        self.campaign.prove_readable()

    def prove_all(self) -> None:
        """The same to the last byte of every point, after a last prune.

        Only then does a rebuilt catalog know no more than this one: dead frames are gone.
        """
        self.prove()
        expect_success(self.run("prune"))
        expect_success(run_child(none_reappeared(self.campaign.repository, self.gone)))
        self.campaign.prove_all()

    def trigger(self, operation: Operation, at: int, action: Action) -> ChildExit:
        """*operation* with a trap on its call number *at*, then the proof."""
        outcome = self.run(operation, prepare=Trap(at, action).install)
        try:
            self.prove()
        except Violation as exc:
            raise Violation(f"{operation}, call {at}, {action}, {outcome}: {exc}") from exc
        return outcome
