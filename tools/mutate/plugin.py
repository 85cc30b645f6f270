"""pytest plugin for the map of tests: tells coverage which test runs, and writes how long it took.

Loaded by name in the process that runs the tests; its data go where the environment says.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import coverage
import pytest

CONTEXT: Final = "CBTFS_MUTATE_TEST"
"""The running test, for the coverage of child processes: tools/mutate/reach.py names it there."""
RESULTS: Final = "CBTFS_MUTATE_RESULTS"
"""File that gets a line of JSON for each test: its id, outcome and seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Attribute to *item* what runs from its set-up to its tear-down."""
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
_bad: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the phases of a test and write a line at its end."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.outcome != "passed":
        _bad.add(report.nodeid)
    if report.when == "teardown":
        line = {
            "test": report.nodeid,
            "passed": report.nodeid not in _bad,
            "seconds": round(_seconds.pop(report.nodeid), 4),
        }
        with Path(os.environ[RESULTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
