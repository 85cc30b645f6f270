"""Plans carry the code of their reason, independent of its text."""

import pytest

from cbtfs.core.extent import Extent
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import ChangeTrackingUnusable, SourceMismatch
from cbtfs.ingest.plan import Plan, PlanOptions, make_plan, missed, whole
from cbtfs.source.base import ChangeTrackingInvalid
from tests.source.fake import FakeDisk

REASON = Reason(FullReason.QUERY_FAILED, "any words")


def test_a_full_names_the_code_of_its_reason() -> None:
    plan = whole(REASON, "auto")

    assert (plan.kind, plan.reason, plan.full_reason) == ("full", "any words", REASON.code)


def test_a_missed_change_is_a_full_with_the_code_audit() -> None:
    plan = missed(Plan("incremental", "", []), "any words", "auto")

    assert (plan.kind, plan.full_reason) == ("full", FullReason.AUDIT)


@pytest.mark.parametrize(("kind", "code"), [("full", None), ("incremental", FullReason.FIRST)])
def test_a_plan_has_a_code_only_for_a_full(kind: str, code: FullReason | None) -> None:
    with pytest.raises(ValueError, match="reason code"):
        Plan(kind, "", [Extent(0, 1)], None, code)  # type: ignore[arg-type]


def test_a_full_that_is_forbidden_is_an_error() -> None:
    with pytest.raises(ChangeTrackingUnusable, match="any words"):
        whole(REASON, "incremental")
    with pytest.raises(SourceMismatch, match="any words"):
        missed(Plan("incremental", "", []), "any words", "incremental")


def test_the_first_point_of_a_disk_has_the_code_first() -> None:
    plan = make_plan(FakeDisk(4096).take_snapshot(), None, PlanOptions())

    assert plan.full_reason is FullReason.FIRST


def test_an_invalid_list_carries_its_reason() -> None:
    error = ChangeTrackingInvalid("any words", FullReason.QUERY_FAILED)

    assert error.reason == REASON
