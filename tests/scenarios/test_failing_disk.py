"""System calls fail one after the other: the run ends with a reason, committed data is intact."""

from pathlib import Path

import pytest

from tools.crash.campaign import Campaign
from tools.crash.child import BUG
from tools.crash.trap import Action

pytestmark = pytest.mark.mounts

SEED = 20261123
CALLS = 70
"""Upper bound of the calls of a run: the last traps do not trigger."""
NEEDED = {"fsync", "writev", "rename", "link"}
"""Calls that every successful run makes."""


@pytest.mark.parametrize("action", ["EIO", "ENOSPC"])
def test_a_failed_call_ends_the_run_with_a_reason_and_without_damage(
    tmp_path: Path, action: Action
) -> None:
    campaign = Campaign(tmp_path, SEED)
    campaign.make_folders()
    campaign.run_undisturbed()

    results = [campaign.trigger(call, action) for call in range(CALLS)]
    assert not results[-1].values("triggered")
    results += [campaign.trigger(0, action, name) for name in sorted(NEEDED)]
    campaign.prove_all()

    failed = [result for result in results if result.values("triggered")]
    assert {name for result in failed for name in result.values("triggered")} >= NEEDED
    assert [result.values("bug") for result in failed if result.code == BUG] == []
    assert [r for r in failed if not r.code and r.values("triggered")[0] in NEEDED] == []


def test_short_writes_are_continued(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)

    for _ in range(3):
        campaign.write_short()

    campaign.prove_all()
    assert campaign.points == 3
