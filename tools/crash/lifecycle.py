"""All operations on one repository: ingest, forget, prune and repair.

A campaign kills them or fails their calls, again and again, on the same repository.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cbtfs.core.ids import PointId
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
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
"""Approximate number of points to keep: enough to share data, few enough to read often."""

Prepare = Callable[[Send], None]


def unprepared(send: Send) -> None:
    """Do nothing before the operation."""


def forgetting(path: Path, points: Sequence[PointId], prepare: Prepare) -> Work:
    """Return work that forgets *points* and acknowledges it."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "forget"})
        with released(path), writing(path, lock_wait=LOCK_WAIT) as repository:
            existing = repository.points.ids()
            repository.forget([point for point in points if point in existing])
            send({"forgot": list(points)})

    return run


def pruning(path: Path, prepare: Prepare) -> Work:
    """Return work that prunes all unused data."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "prune"})
        with released(path), writing(path, lock_wait=LOCK_WAIT) as repository:
            result = prune(repository, PruneLimits(unused_share=0.0), pack_bytes=_PACK_BYTES)
            send({"freed": result.freed_bytes})

    return run


def repairing(path: Path, prepare: Prepare) -> Work:
    """Return work that rebuilds the catalog."""

    def run(send: Send) -> None:
        prepare(send)
        send({"begun": "repair"})
        repair(path, lock_wait=LOCK_WAIT)

    return run


def none_reappeared(path: Path, forgotten: Sequence[PointId]) -> Work:
    """Return work that raises Violation if a forgotten point is listed."""

    def compare(send: Send) -> None:
        with reading(path) as repository, repository.catalog.view() as view:
            listed = {*forgotten} & {*view.point_ids()}
        if listed:
            raise Violation(f"forgotten points are listed: {sorted(listed)}")

    return compare


@dataclass(slots=True)
class Lifecycle:
    """Operations on the repository of a campaign, with counts of their faults."""

    campaign: Campaign
    forgotten: list[PointId] = field(default_factory=list)
    """Points that an acknowledged forget removed."""
    kills: dict[Operation, int] = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    triggered: set[str] = field(default_factory=set)
    unacknowledged: int = 0
    """Points that a killed run committed but did not acknowledge."""
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
        """Run an operation in a child, and record its acknowledgements and its end.

        The child calls *prepare* first, e.g. to install a trap. The parent calls *before* once the
        guest image has its new version.
        """
        campaign = self.campaign
        if operation == "ingest":
            capture = campaign.next_capture()
            before()
            result = campaign.run(
                capture, capture.work(prepare), kill_after=kill_after, before_kill=before_kill
            )
        else:
            work = self._work(operation, prepare)
            result = run_child(work, kill_after=kill_after, before_kill=before_kill)
        for points in result.values("forgot"):
            self.forgotten += points
        self.kills[operation] += result.is_killed
        self.triggered.update(result.values("triggered"))
        return result

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
        """Verify that acknowledged points are intact, forgotten ones absent, and a run works."""
        expect_success(run_child(none_reappeared(self.campaign.repository, self.forgotten)))
        self._known.update(self.campaign.promised)
        self.campaign.prove()
        new = {*self.campaign.promised} - self._known
        self.unacknowledged += len(new) - 1  # the verification itself takes one point
        self._known |= new

    def prove_readable(self) -> None:
        """Verify that every acknowledged point exists and reads correctly, without a write."""
        self.campaign.prove_readable()

    def prove_all(self) -> None:
        """Prune, read every point, and compare the catalog with a rebuilt one.

        The prune is needed because a rebuilt catalog also lists unreferenced frames.
        """
        self.prove()
        expect_success(self.run("prune"))
        expect_success(run_child(none_reappeared(self.campaign.repository, self.forgotten)))
        self.campaign.prove_all()

    def trigger(self, operation: Operation, at: int, action: Action) -> ChildExit:
        """Run *operation* with a trap on call number *at*, then verify the repository."""
        result = self.run(operation, prepare=Trap(at, action).install)
        try:
            self.prove()
        except Violation as exc:
            raise Violation(f"{operation}, call {at}, {action}, {result}: {exc}") from exc
        return result
