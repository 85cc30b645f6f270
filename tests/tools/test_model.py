"""The protocol of many writers loses no point in the model, and every shortcut does.

CBTFS_MODEL_HISTORIES and CBTFS_MODEL_STATES give the numbers of the long form.
"""

import os

import pytest

from tools.model.__main__ import main
from tools.model.history import History, Shape
from tools.model.rules import ABOUT, Rule, Rules
from tools.model.search import search
from tools.model.shortcuts import SHORTCUTS, Shortcut
from tools.model.worlds import WORLDS

HISTORIES = int(os.environ.get("CBTFS_MODEL_HISTORIES", "10"))
STATES = int(os.environ.get("CBTFS_MODEL_STATES", "300"))
SMALL = {"upgrade-old-capture", "upgrade-old-pin", "upgrade-old-prune"}
"""Worlds with fewer states than the short form visits."""


@pytest.mark.parametrize("prunes", [1, 2, 3])
def test_no_random_history_loses_a_point(prunes: int) -> None:
    losses = {
        seed: loss
        for seed in range(HISTORIES)
        if (loss := History(seed, Rules(), Shape(prunes)).play().loss) is not None
    }

    assert losses == {}


@pytest.mark.parametrize("world", WORLDS)
def test_no_order_in_a_small_world_loses_a_point(world: str) -> None:
    result = search(WORLDS[world](), Rules(), 1000 if world in SMALL else STATES)

    assert result.loss is None, "\n".join(result.steps)
    assert result.states > 50
    assert result.is_complete or world not in SMALL


@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=lambda shortcut: "+".join(shortcut.rules))
def test_every_shortcut_loses_a_point(shortcut: Shortcut) -> None:
    assert shortcut.loss() is not None


def test_every_rule_has_a_shortcut() -> None:
    assert {rule for shortcut in SHORTCUTS for rule in shortcut.rules} == set(Rule) == set(ABOUT)


def test_the_command_reports_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    lost = ["--histories", "1", "--without", "conditional-create"]

    assert main([*lost, "--seed", "0"]) == 1
    assert main(["--world", "upgrade-old-pin", "--without", "upgrade-locks-pins"]) == 1

    assert "1 of 1 histories lost a point" in capsys.readouterr().out
