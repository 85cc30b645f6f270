"""pytest plugin for the map of tests: sets the coverage context and records durations.

The process that runs the tests loads it by name. Environment variables name its output.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import coverage
import pytest

CONTEXT: Final = "CBTFS_MUTATE_TEST"
"""Variable with the running test, the coverage context of child processes (reach.py)."""
RESULTS: Final = "CBTFS_MUTATE_RESULTS"
"""Variable with the file of results: one line of JSON per test with id, result and seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Attribute the lines that run between set-up and tear-down of *item* to that test."""
    running = coverage.Coverage.current()
    os.environ[CONTEXT] = item.nodeid
    if running is not None:
        running.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        os.environ.pop(CONTEXT, None)
        if running is not None:
            running.switch_context("")


_seconds: dict[str, float] = {}
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the phases of a test and write a line at its end."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)
    if report.when == "teardown":
        line = {
            "test": report.nodeid,
            "passed": report.nodeid not in _failed,
            "seconds": round(_seconds.pop(report.nodeid), 4),
        }
        with Path(os.environ[RESULTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
