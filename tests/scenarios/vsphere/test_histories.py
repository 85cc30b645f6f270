"""Random histories of a VM: every committed point equals its snapshot, and stays equal.

`CBTFS_HISTORIES=N` plays N longer histories with new seeds: see CONTRIBUTING.md.
"""

import os
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scenarios.vsphere.chances import DAYS, START, Event, Start
from tests.scenarios.vsphere.vm_history import History, Site

LONG: Final = int(os.environ.get("CBTFS_HISTORIES", "0"))
HISTORIES: Final = LONG or 9
PROFILE: Final = settings(
    max_examples=HISTORIES,
    derandomize=not LONG,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.limit(0 if LONG else 600)
@PROFILE
@given(start=START, days=st.lists(DAYS, min_size=3, max_size=12 if LONG else 6))
def test_every_point_equals_its_snapshot(
    site: Site, start: Start, days: Sequence[Sequence[Event]]
) -> None:
    history = History(site, start)
    try:
        history.live(days)
    finally:
        history.end()


def test_the_histories_had_points_of_all_kinds(site: Site) -> None:
    assert site.histories >= HISTORIES
    assert site.counts["incremental"] > HISTORIES
    assert site.counts["full"] > HISTORIES
    assert site.counts["resumed"] > 0
