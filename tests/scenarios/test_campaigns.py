"""Short forms of the crash campaigns: no acknowledged point is lost, no byte is wrong."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.crash.campaigns import CAMPAIGNS

pytestmark = [pytest.mark.mounts, pytest.mark.limit(900)]

SEED = 20261122


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Suppress warnings about repairs: they are expected here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_loses_no_data(name: str, tmp_path: Path) -> None:
    campaign = CAMPAIGNS[name]

    result = campaign.run(tmp_path, SEED, campaign.short)

    print(result)
    assert result.lost == 0
    assert result.tried > 0
    assert result.points > 0
