"""Tests of other modules, on repositories with shared writers.

With CBTFS_TEST_SHARED, tests/conftest.py gives each repository that a test creates in its process
shared writers. CBTFS_SHARED_SUITES=1 runs whole suites, which takes half an hour.
"""

import os
from typing import Final

import pytest

from tests.scenarios.suites import assert_tests_pass

SHORT: Final = (
    "tests/test_reader.py::test_any_range_reads_as_it_was",
    "tests/test_unforget.py",
    "tests/prune/test_prune.py::test_base_middle_and_newest_go_alike",
    "tests/check/test_check.py::test_a_corrupt_chunk_is_reported_with_every_affected_extent",
    "tests/copies/test_copy.py::test_a_later_point_moves_only_its_changes",
    "tests/stats/test_stats.py::test_ratios_compare_what_is_shown_with_what_is_kept",
)
WHOLE: Final = (
    "tests/test_reader.py",
    "tests/test_api.py",
    "tests/test_forget.py",
    "tests/test_unforget.py",
    "tests/test_repair.py",
    "tests/prune/test_prune.py",
    "tests/check",
    "tests/copies",
    "tests/restore",
    "tests/ingest",
    "tests/stats",
    "tests/mount",
    "tests/overlay",
    "tests/export",
    "tests/prove",
    "tests/scenarios/test_forget_under_mounts.py",
)
OF_ONE_WRITER: Final = ("commit-SIGKILL",)
"""Tests that stop a method of the points of one writer."""


@pytest.mark.mounts
@pytest.mark.limit(7200)
def test_they_pass() -> None:
    is_long = "CBTFS_SHARED_SUITES" in os.environ
    assert_tests_pass(WHOLE if is_long else SHORT, OF_ONE_WRITER, "CBTFS_TEST_SHARED")
