"""A recording reproduces the repository, and replay detects a program that does not flush."""

import logging
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cbtfs.store import files
from tools.crash import replay
from tools.crash.campaign import Campaign
from tools.crash.child import Send, run_child
from tools.crash.lifecycle import OPERATIONS, Lifecycle, Operation
from tools.crash.recording import parse, recorder
from tools.crash.storage import Storage
from tools.crash.traced import NotModelled, Trace
from tools.crash.verify import Violation

pytestmark = pytest.mark.mounts

SEED = 20261125


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Suppress warnings about repairs: they are expected here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def lifecycle(tmp_path: Path) -> Lifecycle:
    new = Lifecycle(Campaign(tmp_path, SEED))
    for _ in range(3):
        new.campaign.run_undisturbed()
    return new


def contents(path: Path) -> dict[str, bytes | None]:
    """Return all files below *path* without the lock of LMDB, which is written by a mapping."""
    return {
        str(file.relative_to(path)): None if file.is_dir() else file.read_bytes()
        for file in path.rglob("*")
        if file.name != "lock.mdb"
    }


def test_a_replayed_recording_equals_the_repository(lifecycle: Lifecycle, tmp_path: Path) -> None:
    for operation in OPERATIONS:
        recorded = replay.record(lifecycle, operation, tmp_path / "recording")

        state = recorded.trace.storage.state(1 << 62, "kept", random.Random())

        played = {name: data for name, data in state.items() if "lock.mdb" not in name}
        assert played == contents(lifecycle.campaign.repository)
        assert recorded.trace.counts["fdatasync"] > 0


def flush_nothing(send: Send) -> None:
    os.fsync = lambda fd: None


def flush_no_folder(send: Send) -> None:
    files.sync_folder.__code__ = (lambda path: None).__code__


def try_states(lifecycle: Lifecycle, recorded: replay.RecordedOperation, victim: Path) -> None:
    for _ in range(200):
        replay.try_state(lifecycle, recorded, victim, is_thorough=False)


@pytest.mark.parametrize("break_it", [flush_nothing, flush_no_folder])
@pytest.mark.parametrize("operation", ["ingest", "forget"])
def test_a_program_that_does_not_flush_is_detected(
    lifecycle: Lifecycle, tmp_path: Path, operation: Operation, break_it: Callable[[Send], None]
) -> None:
    recorded = replay.record(lifecycle, operation, tmp_path / "recording", break_it)

    with pytest.raises(Violation):
        try_states(lifecycle, recorded, tmp_path / "victim")


def test_a_write_by_a_memory_mapping_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(bytes(4096))
    trace, tracer = Trace(root, Storage(root)), recorder(tmp_path / "recording")

    def write_by_mapping(send: Send) -> None:
        tracer.install(send)
        with (root / "file").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            memory[0] = 1

    run_child(write_by_mapping)
    calls = [*parse(tracer.lines())]

    with pytest.raises(NotModelled, match="memory mapping"):
        trace.play(calls)
