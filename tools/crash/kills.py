"""Campaigns: writers are killed, and their calls fail."""

from pathlib import Path
from typing import Final

from tools.crash.campaign import Campaign
from tools.crash.lifecycle import OPERATIONS, Lifecycle, Operation
from tools.crash.result import CampaignResult
from tools.crash.trap import Action
from tools.crash.verify import Violation

_BUG: Final = 70
_CALLS: Final = 80
"""More than a run makes of a small disk."""
_ACTIONS: Final[tuple[Action, ...]] = ("EIO", "ENOSPC", "kill")


def kills(folder: Path, seed: int, count: int) -> CampaignResult:
    """SIGKILL at random moments of ingest, forget, prune and repair."""
    lifecycle = Lifecycle(Campaign(folder, seed))
    campaign = lifecycle.campaign
    for _ in range(5):
        campaign.run_undisturbed()
    seconds = {operation: max(lifecycle.run(operation).seconds, 0.005) for operation in OPERATIONS}
    while sum(lifecycle.kills.values()) < count:
        rarest = min(OPERATIONS, key=lambda each: lifecycle.kills[each])
        operation = rarest if campaign.rnd.random() < 0.5 else lifecycle.next_operation()
        lifecycle.run(operation, kill_after=campaign.rnd.random() * seconds[operation])
        lifecycle.prove()
    lifecycle.prove_all()
    note = ", ".join(f"{operation} {number}" for operation, number in lifecycle.kills.items())
    return CampaignResult(
        "kills",
        sum(lifecycle.kills.values()),
        "SIGKILL",
        campaign.points,
        lifecycle.unacknowledged,
        0,
        note,
    )


def calls(folder: Path, seed: int, count: int) -> CampaignResult:
    """The N-th call to the system fails or is the last, for every N and operation.

    *count* is how many of EIO, ENOSPC and SIGKILL are tried at each call: with less than three
    they are drawn.
    """
    lifecycle = Lifecycle(Campaign(folder, seed))
    for _ in range(4):
        lifecycle.campaign.run_undisturbed()
    tried = sum(
        _every_call(lifecycle, operation, turn, count)
        for operation in OPERATIONS
        for turn in range(count)
    )
    lifecycle.prove_all()
    note = ", ".join(sorted(lifecycle.triggered))
    return CampaignResult(
        "calls",
        tried,
        "failing calls",
        lifecycle.campaign.points,
        lifecycle.unacknowledged,
        0,
        note,
    )


def _every_call(lifecycle: Lifecycle, operation: Operation, turn: int, turns: int) -> int:
    """How many calls of *operation* were made to fail, one in each run."""
    for at in range(_CALLS):
        action = (
            _ACTIONS[turn] if turns == len(_ACTIONS) else lifecycle.campaign.rnd.choice(_ACTIONS)
        )
        if operation == "prune":
            lifecycle.run("forget")  # something to give back
        outcome = lifecycle.trigger(operation, at, action)
        if outcome.code == _BUG:
            raise Violation(f"{operation}, call {at}, {action}: {outcome.messages}")
        if not outcome.values("triggered"):
            return at
    return _CALLS
