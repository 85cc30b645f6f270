"""The short forms of the campaigns: nothing that was promised is lost, no byte reads wrong."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.crash.campaigns import CAMPAIGNS

pytestmark = pytest.mark.mounts

SEED = 20261122


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is mended on the way is not told: it is what this is about."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    campaign = CAMPAIGNS[name]

    result = campaign.run(tmp_path, SEED, campaign.short)

    print(result)
    assert result.lost == 0
    assert result.tried > 0
    assert result.points > 0
