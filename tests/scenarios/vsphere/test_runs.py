"""Records of runs: those of ended processes are stale, those of running ones are not."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cbtfs.store.identity import new_id
from cbtfs.store.runs import RunFacts, RunFolder
from tests.make_points import new_repository


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "r")


def facts(vm: str = "vm") -> RunFacts:
    return RunFacts(new_id(), "server", vm, "cbtfs-x")


def test_a_running_run_is_not_stale_even_for_its_own_process(folder: Path) -> None:
    with RunFolder(folder).start(facts()):
        assert RunFolder(folder).dead("server", "vm") == []


def test_a_run_that_ended_without_finishing_is_stale(folder: Path) -> None:
    made = facts()
    with RunFolder(folder).start(made):
        pass

    assert RunFolder(folder).dead("server", "vm") == [made]
    assert RunFolder(folder).dead("server", "other") == []
    assert RunFolder(folder).dead("other", "vm") == []
    RunFolder(folder).forget(made)
    assert RunFolder(folder).dead("server", "vm") == []


def test_a_new_record_that_another_run_looks_at_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(path: Path, _: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)
        threading.Timer(0.05, os.close, [fd]).start()

    monkeypatch.setattr("cbtfs.store.runs.give_new", look)

    with RunFolder(folder).start(facts()):
        assert RunFolder(folder).dead("server", "vm") == []


def test_a_finished_run_leaves_nothing(folder: Path) -> None:
    with RunFolder(folder).start(facts()) as run:
        run.finish()

    assert list((folder / "locks" / "runs").iterdir()) == []


def test_a_killed_process_leaves_a_stale_run(folder: Path) -> None:
    made = facts()
    code = (
        "import sys, time; from pathlib import Path; from cbtfs.store.runs import *\n"
        f"run = RunFolder(Path({str(folder)!r})).start(RunFacts(*{list(vars_of(made))!r}))\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert RunFolder(folder).dead("server", "vm") == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    assert RunFolder(folder).dead("server", "vm") == [made]


def vars_of(made: RunFacts) -> tuple[str, str, str, str]:
    return made.run, made.server, made.vm, made.snapshot


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"run": "x"}', b'{"vm": 1}'),
        pytest.param(b"[" * 60_000, id="nested too deeply"),
    ],
)
def test_an_invalid_record_is_ignored(folder: Path, content: bytes) -> None:
    runs = folder / "locks" / "runs"
    runs.mkdir()
    (runs / new_id()).write_bytes(content)

    assert RunFolder(folder).dead("server", "vm") == []


def test_a_record_under_another_name_is_ignored(folder: Path) -> None:
    made = facts()
    with RunFolder(folder).start(made):
        pass
    runs = folder / "locks" / "runs"
    (runs / made.run).rename(runs / new_id())

    assert RunFolder(folder).dead("server", "vm") == []
    assert replace(made, vm="x") != made
