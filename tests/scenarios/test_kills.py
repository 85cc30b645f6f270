"""Runs on one repository are killed again and again: committed data stays intact."""

from pathlib import Path
from statistics import median

import pytest

from tools.crash.campaign import Campaign

pytestmark = pytest.mark.mounts

SEED = 20261122
KILLS = 40
CALLS = 70
"""Upper bound of the calls of a run: the last traps do not trigger."""
STEPS = {"writev", "fsync", "rename", "link", "replace", "catalog"}
"""Calls that every run makes: which ones the numbers hit differs from run to run."""


def send(text: str) -> None:
    print(f"seed {SEED}: {text}")


def test_kills_at_random_moments_leave_committed_data_intact(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)
    duration = median(campaign.run_undisturbed().seconds for _ in range(7))
    moments = [duration * (n + 0.5) / KILLS for n in range(KILLS)]
    campaign.rnd.shuffle(moments)

    while campaign.counts.kills < KILLS:
        campaign.kill_after(moments[campaign.counts.runs % KILLS])
    campaign.prove_all()

    send(f"{campaign.counts}, {campaign.points} points, a run takes {duration:.3f} s")
    assert campaign.points >= KILLS


def test_a_kill_at_any_call_leaves_committed_data_intact(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)
    campaign.make_folders()
    campaign.run_undisturbed()

    results = [campaign.trigger(call, "kill") for call in range(CALLS)]
    assert not results[-1].is_killed
    results += [campaign.trigger(0, "kill", name) for name in sorted(STEPS)]
    campaign.prove_all()

    send(f"{campaign.counts}, {campaign.points} points")
    steps = {name for result in results for name in result.values("triggered")}
    assert steps >= STEPS
    assert campaign.counts.unacknowledged > 0
