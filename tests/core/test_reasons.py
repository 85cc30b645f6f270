"""Reason codes: documented, independent of wording, and open to values of newer programs."""

import re
from pathlib import Path

import pytest

from cbtfs.core.reasons import FullReason, Reason, parse_full_reason

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
DOCUMENTED = re.findall(r"`(\w+)`", PAGE.partition("Reasons: ")[2].partition("\n\n")[0])


@pytest.mark.parametrize("code", FullReason)
def test_every_code_is_documented_as_a_metric_label(code: FullReason) -> None:
    assert code.value in DOCUMENTED


@pytest.mark.parametrize("code", FullReason)
def test_a_value_is_parsed_to_its_code(code: FullReason) -> None:
    assert parse_full_reason(code.value) is code


@pytest.mark.parametrize("value", ["", "First", "a code of a newer program"])
def test_an_unknown_value_is_other(value: str) -> None:
    assert parse_full_reason(value) is FullReason.OTHER


def test_the_labels_of_metrics_keep_their_values() -> None:
    """Dashboards and alerts match on the values: they are added, never changed."""
    assert {code.value for code in FullReason} >= {
        "first",
        "asked_for",
        "audit",
        "hardware",
        "tracking_off",
        "tracking_reset",
        "not_tracked",
        "base_unknown",
        "base_damaged",
        "base_missing",
        "base_suspect",
        "base_unsuitable",
        "moved",
        "resized",
        "foreign_snapshot",
        "reverted",
        "reverts_unknown",
        "query_failed",
        "list_refused",
        "list_of_another_point",
        "no_list",
        "other",
    }


def test_a_reason_reads_as_its_text() -> None:
    assert str(Reason(FullReason.NO_LIST, "no change list")) == "no change list"
