"""Simulated crashes in the middle of a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pytest

from cbtfs.store.backend import local
from cbtfs.store.backend.local import Directory
from cbtfs.store.catalog.update import Update
from cbtfs.store.pack import PackWriter
from cbtfs.store.points import PointFolder


class Step(NamedTuple):
    """A function that a commit calls: the module that looks it up, and its name."""

    owner: object
    name: str


COMMIT: Final = [
    Step(PackWriter, "append"),
    Step(PackWriter, "close"),
    Step(local, "sync_folder"),
    Step(Update, "add_pack"),
    Step(Update, "add_objects"),
    Step(PointFolder, "put_state"),
    Step(Directory, "create"),
    Step(Update, "put_point"),
]
CATCH_UP: Final = [
    Step(Update, "keep_numbers"),
    Step(Update, "move_object"),
    Step(Update, "drop_objects"),
    Step(Update, "drop_pack"),
    Step(Update, "add_pack"),
    Step(Update, "add_objects"),
    Step(Update, "put_point"),
    Step(Update, "renew_generation"),
]


class Crash(Exception):
    """Raised to simulate the end of the program."""


@contextmanager
def crashing(step: Step, *, after: bool, spared: int = 0) -> Iterator[None]:
    """Make *step* crash before or after its work, after *spared* calls without a crash."""
    real, calls = getattr(step.owner, step.name), 0

    def stepping(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= spared:
            return real(*args, **named)
        if after:
            real(*args, **named)
        raise Crash(step.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.owner, step.name, stepping)
        yield
