"""Tests of other modules, on encrypted repositories.

With CBTFS_TEST_ENCRYPTED, tests/conftest.py encrypts each repository that a test creates in its
process. CBTFS_ENCRYPTED_SUITES=1 runs whole suites, which takes half an hour.
"""

import os
from typing import Final

import pytest

from tests.scenarios.suites import assert_tests_pass

SHORT: Final = (
    "tests/test_reader.py::test_any_range_reads_as_it_was",
    "tests/prune/test_prune.py::test_base_middle_and_newest_go_alike",
    "tests/check/test_check.py::test_a_corrupt_chunk_is_reported_with_every_affected_extent",
    "tests/copies/test_copy.py::test_a_later_point_moves_only_its_changes",
    "tests/ingest/audit/test_distrust_records.py",
    "tests/ingest/audit/test_audited_points.py",
    "tests/prove/test_prove.py::test_a_verification_by_check_passes_level_1",
    "tests/scenarios/vsphere/test_command.py::test_points_of_several_vms_are_correct_and_separate",
)
WHOLE: Final = (
    "tests/test_reader.py",
    "tests/test_forget.py",
    "tests/test_unforget.py",
    "tests/prune/test_prune.py",
    "tests/check",
    "tests/copies",
    "tests/restore",
    "tests/ingest",
    "tests/mount",
    "tests/overlay",
    "tests/export",
    "tests/prove",
    "tests/scenarios/vsphere",
)
OF_PLAIN_FILES: Final = (
    "test_nothing_is_removed_while_a_manifest_cannot_be_read",
    "test_members_of_a_newer_program_survive",
    "test_all_points_are_copied",
    "test_a_copy_of_a_copy_equals_the_source",
    "test_detection",
    "test_blocks_equal_those_of_the_source_and_the_last_is_padded",
    "test_leftovers_of_a_stale_writer_are_no_problem",
    "test_a_new_catalog_trusts_no_list_since_points_committed_before_it",
    "test_a_catalog_of_an_older_schema_trusts_no_list_since_points_that_it_may_have_dropped",
    "test_an_old_catalog_trusts_no_list_since_points_committed_after_it",
)
"""Tests that edit or compare bytes of manifests, remove the newest point, or need no repository."""


@pytest.mark.mounts
@pytest.mark.limit(7200)
def test_they_pass() -> None:
    is_long = "CBTFS_ENCRYPTED_SUITES" in os.environ
    assert_tests_pass(WHOLE if is_long else SHORT, OF_PLAIN_FILES, "CBTFS_TEST_ENCRYPTED")
