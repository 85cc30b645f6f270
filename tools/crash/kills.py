"""Campaigns: writers are killed, and their calls fail."""

from pathlib import Path
from typing import Final

from tools.crash.campaign import Campaign
from tools.crash.lives import VERBS, Lives, Verb
from tools.crash.result import Result
from tools.crash.trap import Action
from tools.crash.verify import Violation

_BUG: Final = 70
_CALLS: Final = 80
"""More than a run makes of a small disk."""
_ACTIONS: Final[tuple[Action, ...]] = ("EIO", "ENOSPC", "kill")


def kills(folder: Path, seed: int, count: int) -> Result:
    """SIGKILL at random moments of ingest, forget, prune and repair."""
    lives = Lives(Campaign(folder, seed))
    campaign = lives.campaign
    for _ in range(5):
        campaign.run_well()
    seconds = {verb: max(lives.run(verb).seconds, 0.005) for verb in VERBS}
    while sum(lives.kills.values()) < count:
        rarest = min(VERBS, key=lambda each: lives.kills[each])
        verb = rarest if campaign.rnd.random() < 0.5 else lives.next_verb()
        lives.run(verb, kill_after=campaign.rnd.random() * seconds[verb])
        lives.prove()
    lives.prove_all()
    note = ", ".join(f"{verb} {number}" for verb, number in lives.kills.items())
    return Result(
        "kills", sum(lives.kills.values()), "SIGKILL", campaign.points, lives.late, 0, note
    )


def calls(folder: Path, seed: int, count: int) -> Result:
    """The N-th call to the system fails or is the last, for every N and verb.

    *count* is how many of EIO, ENOSPC and SIGKILL are tried at each call: with less than three
    they are drawn.
    """
    lives = Lives(Campaign(folder, seed))
    for _ in range(4):
        lives.campaign.run_well()
    tried = sum(_every_call(lives, verb, turn, count) for verb in VERBS for turn in range(count))
    lives.prove_all()
    note = ", ".join(sorted(lives.sprung))
    return Result("calls", tried, "failing calls", lives.campaign.points, lives.late, 0, note)


def _every_call(lives: Lives, verb: Verb, turn: int, turns: int) -> int:
    """How many calls of *verb* were made to fail, one in each run."""
    for at in range(_CALLS):
        action = _ACTIONS[turn] if turns == len(_ACTIONS) else lives.campaign.rnd.choice(_ACTIONS)
        if verb == "prune":
            lives.run("forget")  # something to give back
        outcome = lives.spring(verb, at, action)
        if outcome.code == _BUG:
            raise Violation(f"{verb}, call {at}, {action}: {outcome.messages}")
        if not outcome.told("sprung"):
            return at
    return _CALLS
