"""Runs are killed over and over on one repository: nothing that was committed is touched."""

from pathlib import Path
from statistics import median

import pytest

from tools.crash.campaign import Campaign

pytestmark = pytest.mark.mounts

SEED = 20261122
KILLS = 100
CALLS = 50
"""More than a run makes: the last traps are not triggered."""


def send(text: str) -> None:
    print(f"seed {SEED}: {text}")


def test_kills_at_random_moments_touch_nothing_that_was_committed(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)
    duration = median(campaign.run_undisturbed().seconds for _ in range(7))
    moments = [duration * (n + 0.5) / KILLS for n in range(KILLS)]
    campaign.rnd.shuffle(moments)

    while campaign.counts.kills < KILLS:
        campaign.kill_after(moments[campaign.counts.runs % KILLS])
    campaign.prove_all()

    send(f"{campaign.counts}, {campaign.points} points, a run takes {duration:.3f} s")
    assert campaign.points >= KILLS


def test_a_kill_at_any_step_touches_nothing_that_was_committed(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)
    campaign.make_folders()
    campaign.run_undisturbed()

    outcomes = [campaign.trigger(call, "kill") for call in range(CALLS)]
    campaign.prove_all()

    send(f"{campaign.counts}, {campaign.points} points")
    steps = {name for outcome in outcomes for name in outcome.values("triggered")}
    assert steps >= {"writev", "fsync", "rename", "link", "replace", "catalog"}
    assert not outcomes[-1].is_killed
    assert campaign.counts.unacknowledged > 0
