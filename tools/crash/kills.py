"""Campaigns: kill writers, and fail their system calls."""

from pathlib import Path
from typing import Final

from tools.crash.campaign import Campaign
from tools.crash.child import BUG
from tools.crash.lifecycle import OPERATIONS, Lifecycle, Operation
from tools.crash.result import CampaignResult
from tools.crash.trap import Action
from tools.crash.verify import Violation

_SAMPLE_STEP: Final = 4
_CALLS: Final = 80
"""Upper bound of the calls of a run with a small disk."""
_ACTIONS: Final[tuple[Action, ...]] = ("EIO", "ENOSPC", "kill")


def kills(folder: Path, seed: int, count: int) -> CampaignResult:
    """Kill ingest, forget, prune and repair at random moments."""
    lifecycle = Lifecycle(Campaign(folder, seed))
    campaign = lifecycle.campaign
    for _ in range(5):
        campaign.run_undisturbed()
    seconds = {operation: max(lifecycle.run(operation).seconds, 0.005) for operation in OPERATIONS}
    while sum(lifecycle.kills.values()) < count:
        rarest = min(OPERATIONS, key=lambda operation: lifecycle.kills[operation])
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
    """Fail the N-th system call, or kill the process there, for every N and operation.

    *count* is the number of actions (EIO, ENOSPC, SIGKILL) to try at each call; fewer than three
    are chosen at random. 0 is a sample: one action at every fourth call.
    """
    lifecycle = Lifecycle(Campaign(folder, seed))
    for _ in range(4):
        lifecycle.campaign.run_undisturbed()
    turns, step = (count, 1) if count else (1, _SAMPLE_STEP)
    tried = sum(
        _fail_calls(lifecycle, operation, turn, turns, step)
        for operation in OPERATIONS
        for turn in range(turns)
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


def _fail_calls(
    lifecycle: Lifecycle, operation: Operation, turn: int, turns: int, step: int
) -> int:
    """Fail one call per run of *operation*; return the number of failed calls."""
    first = lifecycle.campaign.rnd.randrange(step) if step > 1 else 0
    for tried, at in enumerate(range(first, _CALLS, step)):
        action = (
            _ACTIONS[turn] if turns == len(_ACTIONS) else lifecycle.campaign.rnd.choice(_ACTIONS)
        )
        if operation == "prune":
            lifecycle.run("forget")  # leave unused data to prune
        result = lifecycle.trigger(operation, at, action)
        if result.code == BUG:
            raise Violation(f"{operation}, call {at}, {action}: {result.messages}")
        if not result.values("triggered"):
            return tried
    return len(range(first, _CALLS, step))
