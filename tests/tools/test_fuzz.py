"""A short run of each fuzz target, and valid inputs that are cut or flipped."""

from pathlib import Path

import pytest

from tools.fuzz.__main__ import FuzzResult, fuzz
from tools.fuzz.targets import TARGETS, seeds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FuzzResult]:
    """Results of a short run of every target, by target."""
    done = fuzz(list(TARGETS), 1, tmp_path_factory.mktemp("corpus"), runs=500)
    return {result.target: result for result in done}


@pytest.mark.parametrize("target", TARGETS)
def test_a_decoder_raises_no_unexpected_error(target: str, results: dict[str, FuzzResult]) -> None:
    assert results[target].failure == ""
    assert results[target].runs > 10


@pytest.mark.parametrize("target", TARGETS)
def test_a_truncated_or_flipped_valid_input_raises_no_unexpected_error(target: str) -> None:
    for seed in seeds(target):
        for at in range(0, len(seed), max(len(seed) // 200, 1)):
            TARGETS[target](seed[:at])
            TARGETS[target](seed[:at] + bytes([seed[at] ^ 0x81]) + seed[at + 1 :])


def test_a_target_that_fails_is_reported(tmp_path: Path) -> None:
    [result] = fuzz(["no such target"], 1, tmp_path)

    assert "KeyError" in result.failure
