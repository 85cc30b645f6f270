"""Turns of processes at one catalog."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.errors import StoreFailed
from cbtfs.store import turns as turns_module
from cbtfs.store.catalog import catalog as catalog_module
from cbtfs.store.repository import writing
from cbtfs.store.turns import Turns
from tests.make_points import add_point, read_point
from tests.shared_writers import new_shared

HOLDER = """
import sys
from pathlib import Path
from cbtfs.store.turns import Turns
with Turns(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    """Start a process that has the turn until its standard input ends."""
    words = [sys.executable, "-c", HOLDER, str(lock)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_turn_may_be_nested_and_leaves_no_text(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "catalog")
    with turns.held() as outer, turns.held() as inner:
        assert outer is inner
        assert (tmp_path / "catalog").read_bytes()
    turns.close()

    assert not (tmp_path / "catalog").read_bytes()


def test_a_process_that_waits_names_the_one_that_has_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = tmp_path / "catalog"
    child = holder(lock)
    monkeypatch.setattr(turns_module, "_REPORT_SECONDS", 0.01)

    class Ends(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            child.communicate("")

    handler = Ends()
    turns_module.log.addHandler(handler)
    turns = Turns(lock)
    with turns.held() as turn:
        assert not turn.is_unsure
    turns_module.log.removeHandler(handler)
    turns.close()

    assert f"in use by process {child.pid}" in caplog.text


def test_a_death_within_a_turn_makes_the_next_writer_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_shared(tmp_path / "repository")
    point = add_point(path, {"disk": b"content"})
    with writing(path) as repository:
        child = holder(path / "locks" / "catalog")
        child.kill()
        child.communicate()
        verified: list[Path] = []
        monkeypatch.setattr(catalog_module, "verify", verified.append)
        repository.catalog.update(lambda update: update.keep_numbers())
        repository.catalog.update(lambda update: update.keep_numbers())

    assert verified == [path / "catalog"]
    assert read_point(path, point) == {"disk": b"content"}


def test_a_writer_does_not_change_a_catalog_that_was_rebuilt(tmp_path: Path) -> None:
    path = new_shared(tmp_path / "repository")
    add_point(path, {"disk": b"content"})
    words = [sys.executable, "-m", "cbtfs", "--repo", str(path), "repair"]
    with writing(path) as repository:
        subprocess.run(words, check=True, capture_output=True)
        with pytest.raises(StoreFailed, match="rebuilt the catalog: run the command again"):
            repository.catalog.update(lambda update: update.keep_numbers())
