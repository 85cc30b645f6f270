"""Campaign: record an operation, and verify the states that a power cut may leave."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.store.catalog_opening import CATALOG
from tools.crash.campaign import Campaign, expect_success
from tools.crash.capture import IngestRun
from tools.crash.child import ChildExit, Message, Send, Work, run_child
from tools.crash.lifecycle import (
    Lifecycle,
    Operation,
    Prepare,
    none_reappeared,
    pruning,
    unprepared,
)
from tools.crash.recording import parse, recorder
from tools.crash.result import CampaignResult
from tools.crash.storage import LOSS_MODES, FileTree, LossMode, Storage
from tools.crash.traced import Trace
from tools.crash.verify import (
    Promise,
    Violation,
    catalog_is_as_rebuilt,
    promises_hold,
    repository_is_sound,
)

_FIRST: Final[tuple[Operation, ...]] = ("ingest", "forget", "ingest", "prune", "repair")
_RESTART_SHARE: Final = 0.4
_STATES: Final = 20
"""Crash states to try per recording."""
_THOROUGH: Final = 10
"""One state of ten is pruned and read whole, and its catalog compared with a rebuilt one."""
_SAMPLE: Final = 2
_ASIDE: Final = f"{CATALOG}.damaged"
"""Name of the old catalog after a rebuild."""
_MODE, _FOLDER_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class RecordedOperation:
    """A recorded operation, its effect on storage, and the points promised before its start."""

    operation: Operation
    trace: Trace
    promised: Mapping[PointId, Promise | None]
    """Acknowledged points, without those that the operation forgets."""
    known: set[PointId]
    """All points before the operation, including those that it forgets."""
    forgotten: list[PointId]
    """Points that an earlier, acknowledged forget removed."""

    def promised_at(self, moment: int) -> dict[PointId, Promise | None]:
        new = [PointId(m["point"]) for m in self._sent_before(moment) if "point" in m]
        return {**self.promised, **dict.fromkeys(new)}

    def forgotten_at(self, moment: int) -> list[PointId]:
        sent = self._sent_before(moment)
        return [*self.forgotten, *(point for m in sent for point in m.get("forgot", []))]

    def _sent_before(self, moment: int) -> list[Message]:
        return [sent.message for sent in self.trace.sent if sent.begun < moment]


def replay(folder: Path, seed: int, count: int) -> CampaignResult:
    """Verify crash states of every operation; continue from one of them in 40 % of all rounds."""
    lifecycle = Lifecycle(Campaign(folder, seed))
    campaign, victim = lifecycle.campaign, folder / "victim"
    for _ in range(3):
        campaign.run_undisturbed()
    calls, totals = Counter[str](), Counter[str]()
    operations = [*_FIRST]
    while (left := count - totals["tried"]) > 0:
        operation = operations.pop(0) if operations else lifecycle.next_operation()
        recorded = record(lifecycle, operation, folder / "recording")
        calls.update(recorded.trace.counts)
        for number in range(min(_STATES, left)):
            totals.update(
                try_state(lifecycle, recorded, victim, is_thorough=number % _THOROUGH == 0)
            )
        lifecycle.prove()
        if campaign.rnd.random() < _RESTART_SHARE:
            _restart(lifecycle, recorded)
    lifecycle.prove_all()
    made = ", ".join(f"{name} {number}" for name, number in sorted(calls.items()))
    note = f"{totals['rebuilt']} catalogs rebuilt; recorded: {made}"
    return CampaignResult(
        "replay",
        totals["tried"],
        "crash states",
        campaign.points,
        totals["unacknowledged"],
        0,
        note,
    )


def record(
    lifecycle: Lifecycle, operation: Operation, file: Path, prepare: Prepare = unprepared
) -> RecordedOperation:
    """Run *operation* to its end under strace, and return the recording."""
    campaign = lifecycle.campaign
    trace = Trace(campaign.repository, Storage(campaign.repository))
    tracer, forgotten = recorder(file), list(lifecycle.forgotten)
    before = campaign.promises

    def install(send: Send) -> None:
        prepare(send)
        tracer.install(send)

    result = expect_success(lifecycle.run(operation, prepare=install))
    trace.play([*parse(tracer.lines())])
    _expect_all_recorded(result, trace)
    remaining = campaign.promises.keys()
    promised = {point: promise for point, promise in before.items() if point in remaining}
    return RecordedOperation(operation, trace, promised, {*before}, forgotten)


def _expect_all_recorded(result: ChildExit, trace: Trace) -> None:
    """Verify that the recording has every message of the child: they give the moments."""
    if [sent.message for sent in trace.sent] != result.messages:
        raise Violation(f"{result.messages} was sent, {trace.sent} was recorded")


def try_state(
    lifecycle: Lifecycle, recorded: RecordedOperation, victim: Path, *, is_thorough: bool
) -> Counter[str]:
    """Create one crash state, verify it and run the next operation; return the counts."""
    campaign = lifecycle.campaign
    moment, mode = _choose(campaign, recorded)
    tree = recorded.trace.storage.state(moment, mode, campaign.rnd)
    materialize(tree, victim)
    result = run_child(_proof(campaign, recorded, moment, victim, is_thorough=is_thorough))
    if result.code:
        label = f"{recorded.operation}, moment {moment} of the recording, mode {mode}"
        raise Violation(f"{label}: {result}")
    is_rebuilt = _ASIDE not in tree and (victim / _ASIDE).exists()
    shutil.rmtree(victim)
    (present, *_) = result.values("points")
    unacknowledged = (
        present.keys() - recorded.promised_at(moment).keys() - {*recorded.forgotten_at(moment)}
    )
    return Counter(tried=1, unacknowledged=len(unacknowledged - recorded.known), rebuilt=is_rebuilt)


def _choose(campaign: Campaign, recorded: RecordedOperation) -> tuple[int, LossMode]:
    return campaign.rnd.choice(sorted(recorded.trace.moments)), campaign.rnd.choice(LOSS_MODES)


def _restart(lifecycle: Lifecycle, recorded: RecordedOperation) -> None:
    """Reset the repository to a crash state of *recorded*, for the next operations."""
    moment, mode = _choose(lifecycle.campaign, recorded)
    path = lifecycle.campaign.repository
    shutil.rmtree(path)
    materialize(recorded.trace.storage.state(moment, mode, lifecycle.campaign.rnd), path)
    lifecycle.campaign.restart_from(recorded.promised_at(moment))
    lifecycle.forgotten = recorded.forgotten_at(moment)


def materialize(tree: FileTree, path: Path) -> None:
    """Create a folder with the content of *tree*."""
    path.mkdir(_FOLDER_MODE)
    for name, content in tree.items():
        if content is None:
            (path / name).mkdir(_FOLDER_MODE)
        else:
            (path / name).write_bytes(content)
            (path / name).chmod(_MODE)


def _proof(
    campaign: Campaign, recorded: RecordedOperation, moment: int, victim: Path, *, is_thorough: bool
) -> Work:
    """Return work that verifies a state, runs an ingest, and verifies the result."""
    promised, forgotten = recorded.promised_at(moment), recorded.forgotten_at(moment)
    sample = campaign.rnd.sample(sorted(promised), min(_SAMPLE, len(promised)))
    campaign.guest.change()
    guest = campaign.guest
    capture = IngestRun(victim, guest.path, guest.version, "auto", None)
    digests = list(guest.digests)

    def prove(send: Send) -> None:
        none_reappeared(victim, forgotten)(send)
        promises_hold(victim, promised, digests, sample)(send)
        capture.work()(send)
        if is_thorough:
            pruning(victim, unprepared)(send)
            _expect_sound(victim, send)
            catalog_is_as_rebuilt(victim)(send)
        none_reappeared(victim, forgotten)(send)
        promises_hold(victim, promised, digests, None if is_thorough else sample)(send)

    return prove


def _expect_sound(path: Path, send: Send) -> None:
    problems: list[str] = []
    repository_is_sound(path)(lambda message: problems.extend(message["problems"]))
    if problems:
        raise Violation(f"check reports {problems}")
