"""A short form of tools/fuzz, and a fuzzer that finds what is planted."""

from pathlib import Path

import pytest

from tools.fuzz.__main__ import fuzz
from tools.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_a_decoder_lets_out_no_error_but_those_that_are_meant(target: str, tmp_path: Path) -> None:
    found = fuzz(target, 1, tmp_path)

    assert found.failure == ""
    assert found.runs > 10


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_valid_and_cut_short_or_flipped_does_no_harm(target: str) -> None:
    for seed in seeds(target):
        for at in range(0, len(seed), max(len(seed) // 200, 1)):
            TARGETS[target](seed[:at])
            TARGETS[target](seed[:at] + bytes([seed[at] ^ 0x81]) + seed[at + 1 :])


def test_a_target_that_fails_is_reported(tmp_path: Path) -> None:
    found = fuzz("no such target", 1, tmp_path)

    assert "KeyError" in found.failure
