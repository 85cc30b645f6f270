"""The code of the store loses no point in histories of the model, and the driver sees losses.

CBTFS_MODEL_REAL_HISTORIES gives the number of histories of the long form.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.prune.shared import SharedPrune
from tools.model.__main__ import main
from tools.model.history import Shape
from tools.model.real.drive import play

HISTORIES = int(os.environ.get("CBTFS_MODEL_REAL_HISTORIES", "3"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Suppress warnings about lost replies: they are expected here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_no_history_loses_a_point(tmp_path: Path) -> None:
    for seed in {*range(HISTORIES), 48}:  # 48 ends while a program has its turn.
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert play(seed, folder, Shape(2, 2500)).loss is None, f"seed {seed}"


def test_a_prune_that_waits_for_no_run_loses_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedPrune, "_await", lambda *_: None)

    loss = play(9, tmp_path, Shape(2, 4000)).loss

    assert loss is not None
    assert "is gone" in loss


def test_a_seed_determines_a_history(tmp_path: Path) -> None:
    traces: list[list[str]] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        traces.append([])
        play(5, folder, Shape(1, 600), traces[-1].append)

    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_the_command_plays_histories_by_the_code_of_the_store(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--real", "--histories", "1", "--steps", "300"]) == 0

    assert "0 of 1 histories lost a point" in capsys.readouterr().out
