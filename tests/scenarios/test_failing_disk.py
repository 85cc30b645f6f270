"""Calls to the system fail one after the other: the run ends with a reason, the rest stands."""

from pathlib import Path

import pytest

from tools.crash.campaign import Campaign
from tools.crash.trap import Action

pytestmark = pytest.mark.mounts

SEED = 20261123
BUG = 70
CALLS = 50
"""More than a run makes: the last traps are not triggered."""
NEEDED = {"fsync", "writev", "rename", "link"}
"""No run ends well without these."""


@pytest.mark.parametrize("action", ["EIO", "ENOSPC"])
def test_a_call_that_fails_ends_the_run_with_a_reason_and_harms_nothing(
    tmp_path: Path, action: Action
) -> None:
    campaign = Campaign(tmp_path, SEED)
    campaign.make_folders()
    campaign.run_undisturbed()

    outcomes = [campaign.trigger(call, action) for call in range(CALLS)]
    campaign.prove_all()

    triggered = [outcome for outcome in outcomes if outcome.values("triggered")]
    assert len(triggered) < len(outcomes)
    assert {name for outcome in triggered for name in outcome.values("triggered")} >= NEEDED
    assert [outcome.values("bug") for outcome in triggered if outcome.code == BUG] == []
    assert [o for o in triggered if not o.code and o.values("triggered")[0] in NEEDED] == []


def test_writes_that_the_system_cuts_short_are_gone_on_with(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)

    for _ in range(3):
        campaign.write_short()

    campaign.prove_all()
    assert campaign.points == 3
