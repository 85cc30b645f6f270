"""Campaign: a operation is recorded, and the power goes at any moment of it, in any legal way."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.store.repository import CATALOG
from tools.crash.campaign import Campaign, expect_success
from tools.crash.capture import Capture
from tools.crash.child import ChildExit, Send, Work, run_child
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
_GO_ON: Final = 0.4
_STATES: Final = 20
"""States that one recording ends in."""
_THOROUGH: Final = 10
"""One in so many is pruned, read to the last byte, and its catalog compared with a rebuilt one."""
_SAMPLE: Final = 2
_ASIDE: Final = f"{CATALOG}.damaged"
"""Where a catalog goes that had to be made anew."""
_MODE, _FOLDER_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation, what it did to the storage, and what was promised before it began."""

    operation: Operation
    trace: Trace
    promised: Mapping[PointId, Promise | None]
    """Without those that it was to forget."""
    known: set[PointId]
    """All points that stood before it, those that it was to forget too."""
    gone: list[PointId]
    """Those whose end was acknowledged before."""

    def promised_at(self, moment: int) -> dict[PointId, Promise | None]:
        told = [told.message for told in self.trace.sent if told.begun < moment]
        new = [PointId(message["point"]) for message in told if "point" in message]
        return {**self.promised, **dict.fromkeys(new)}

    def gone_at(self, moment: int) -> list[PointId]:
        told = [told.message for told in self.trace.sent if told.begun < moment]
        return [*self.gone, *(point for message in told for point in message.get("forgot", []))]


def replay(folder: Path, seed: int, count: int) -> CampaignResult:
    """Crash states of recordings of every operation; often life goes on from one of them."""
    lifecycle = Lifecycle(Campaign(folder, seed))
    campaign, victim = lifecycle.campaign, folder / "victim"
    for _ in range(3):
        campaign.run_undisturbed()
    calls, seen = Counter[str](), Counter[str]()
    operations = [*_FIRST]
    while (left := count - seen["tried"]) > 0:
        operation = operations.pop(0) if operations else lifecycle.next_operation()
        recorded = record(lifecycle, operation, folder / "recording")
        calls.update(recorded.trace.counts)
        for number in range(min(_STATES, left)):
            seen.update(try_state(lifecycle, recorded, victim, is_thorough=number % _THOROUGH == 0))
        lifecycle.prove()
        if campaign.rnd.random() < _GO_ON:
            _restart(lifecycle, recorded)
    lifecycle.prove_all()
    made = ", ".join(f"{name} {number}" for name, number in sorted(calls.items()))
    note = f"{seen['rebuilt']} catalogs rebuilt; recorded: {made}"
    return CampaignResult(
        "replay", seen["tried"], "crash states", campaign.points, seen["unacknowledged"], 0, note
    )


def record(
    lifecycle: Lifecycle, operation: Operation, file: Path, prepare: Prepare = unprepared
) -> Recorded:
    """Run *operation* to its end, with strace looking on."""
    campaign = lifecycle.campaign
    trace = Trace(campaign.repository, Storage(campaign.repository))
    tracer, gone = recorder(file), list(lifecycle.gone)
    before = campaign.promises

    def install(send: Send) -> None:
        prepare(send)
        tracer.install(send)

    outcome = expect_success(lifecycle.run(operation, prepare=install))
    trace.play([*parse(tracer.lines())])
    _expect_all_told(outcome, trace)
    there = campaign.promises.keys()
    promised = {point: promise for point, promise in before.items() if point in there}
    return Recorded(operation, trace, promised, {*before}, gone)


def _expect_all_told(outcome: ChildExit, trace: Trace) -> None:
    """What the child said stands in the recording: else its places would mean nothing."""
    if [told.message for told in trace.sent] != outcome.messages:
        raise Violation(f"{outcome.messages} was said, {trace.sent} recorded")


def try_state(
    lifecycle: Lifecycle, recorded: Recorded, victim: Path, *, is_thorough: bool
) -> Counter[str]:
    """Make one state, look at it, and go on from it; what was seen."""
    campaign = lifecycle.campaign
    moment, mode = _choose(campaign, recorded)
    tree = recorded.trace.storage.state(moment, mode, campaign.rnd)
    materialize(tree, victim)
    outcome = run_child(_proof(campaign, recorded, moment, victim, is_thorough=is_thorough))
    if outcome.code:
        what = f"{recorded.operation}, moment {moment} of the recording, mode {mode}"
        raise Violation(f"{what}: {outcome}")
    is_rebuilt = _ASIDE not in tree and (victim / _ASIDE).exists()
    shutil.rmtree(victim)
    (found, *_) = outcome.values("points")
    unacknowledged = (
        found.keys() - recorded.promised_at(moment).keys() - {*recorded.gone_at(moment)}
    )
    return Counter(tried=1, unacknowledged=len(unacknowledged - recorded.known), rebuilt=is_rebuilt)


def _choose(campaign: Campaign, recorded: Recorded) -> tuple[int, LossMode]:
    return campaign.rnd.choice(sorted(recorded.trace.moments)), campaign.rnd.choice(LOSS_MODES)


def _restart(lifecycle: Lifecycle, recorded: Recorded) -> None:
    """Put the repository back to a state of *recorded*: what runs next finds it like that."""
    moment, mode = _choose(lifecycle.campaign, recorded)
    path = lifecycle.campaign.repository
    shutil.rmtree(path)
    materialize(recorded.trace.storage.state(moment, mode, lifecycle.campaign.rnd), path)
    lifecycle.campaign.restart_from(recorded.promised_at(moment))
    lifecycle.gone = recorded.gone_at(moment)


def materialize(tree: FileTree, path: Path) -> None:
    """Make a folder that holds *tree*."""
    path.mkdir(_FOLDER_MODE)
    for name, content in tree.items():
        if content is None:
            (path / name).mkdir(_FOLDER_MODE)
        else:
            (path / name).write_bytes(content)
            (path / name).chmod(_MODE)


def _proof(
    campaign: Campaign, recorded: Recorded, moment: int, victim: Path, *, is_thorough: bool
) -> Work:
    """Work that proves a state: what was promised is there, the next run works, and again."""
    promised, gone = recorded.promised_at(moment), recorded.gone_at(moment)
    sample = campaign.rnd.sample(sorted(promised), min(_SAMPLE, len(promised)))
    campaign.guest.change()
    guest = campaign.guest
    capture = Capture(victim, guest.path, guest.version, "auto", None)
    digests = list(guest.digests)

    def prove(send: Send) -> None:
        none_reappeared(victim, gone)(send)
        promises_hold(victim, promised, digests, sample)(send)
        capture.work()(send)
        if is_thorough:
            pruning(victim, unprepared)(send)
            _expect_sound(victim, send)
            catalog_is_as_rebuilt(victim)(send)
        none_reappeared(victim, gone)(send)
        promises_hold(victim, promised, digests, None if is_thorough else sample)(send)

    return prove


def _expect_sound(path: Path, send: Send) -> None:
    report: list[str] = []
    repository_is_sound(path)(lambda message: report.extend(message["problems"]))
    if report:
        raise Violation(f"a check finds {report}")
