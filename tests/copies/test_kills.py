"""A copy that is killed leaves whole points, and the next copy completes it.

CBTFS_COPY_KILLS=200 kills more often, with other seeds.
"""

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.check.check import check
from tests.copies.pair import Pair
from tests.encrypted import create_encrypted, encrypted_settings
from tests.make_points import BLOCK
from tests.scenarios.repository_history import image

KILLS: Final = int(os.environ.get("CBTFS_COPY_KILLS", "6"))
STEPS: Final = ("writev", "fsync", "rename", "replace", "link")
"""Functions that change storage: a process dies before or after a call."""


def _copy_until(pair: Pair, last: int, is_after: bool) -> None:
    """Copy, and die at step *last*. Runs in a process of its own."""
    count = 0

    def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == last and not is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step

    for name in STEPS:
        setattr(os, name, stepping(getattr(os, name)))
    pair.copy()
    os._exit(0)


@pytest.fixture(params=["plain", "encrypted"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Pair:
    """A repository, and one that is empty; it may be encrypted, so its digests differ."""
    pair = Pair(tmp_path)
    if request.param == "encrypted":
        shutil.rmtree(pair.target)
        create_encrypted(pair.target, encrypted_settings(BLOCK))
    for number in range(4):
        pair.source.add(image(*range(number * 20, number * 20 + 70)), vm=f"vm{number % 2}")
    return pair


def test_a_killed_copy_is_completed_by_the_next(pair: Pair) -> None:
    chance = random.Random(KILLS)
    fork = multiprocessing.get_context("fork")
    for kill in range(KILLS):
        last, is_after = chance.randrange(1, 12 if kill % 3 else 40), chance.random() < 0.5
        child = fork.Process(target=_copy_until, args=(pair, last, is_after))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), (last, is_after)

        assert pair.copied() <= pair.source.expected.keys(), (last, is_after)
        pair.verify()
        assert check(pair.target, read_data=True).problems == [], (last, is_after)
        if child.exitcode == 0:
            pair.source.add(image(*range(kill * 7, kill * 7 + 70)), vm=f"vm{kill % 3}")

    pair.copy()

    assert pair.copied() == pair.source.expected.keys()
    pair.verify()
