"""Distrust records: their content, and the change lists that they cover."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.distrust import Distrust, decode_distrust, encode_distrust, unreadable
from cbtfs.core.ids import DiskId, PointId
from cbtfs.core.sealed import seal, unseal

DISK = DiskId("d1" * 16)
RECORD = Distrust(
    disk=DISK,
    base=PointId("b1" * 16),
    order=7,
    change_id="52 de/81",
    run="1" * 32,
    found="2026-11-22T00:15:03Z",
    blocks=3,
    is_confirmed=True,
)


@pytest.mark.parametrize(
    "record",
    [RECORD, RECORD.trusting_from(9), unreadable(DISK), replace(RECORD, is_allocation=True)],
)
def test_a_record_reads_as_it_was_written(record: Distrust) -> None:
    assert decode_distrust(encode_distrust(record), DISK) == record


def test_a_record_of_an_older_program_is_about_change_lists() -> None:
    document = dict(unseal(encode_distrust(RECORD)))
    del document["is_allocation"]

    assert decode_distrust(seal(document), DISK) == RECORD


def test_a_record_of_another_disk_is_refused() -> None:
    with pytest.raises(ValueError, match="another disk"):
        decode_distrust(encode_distrust(RECORD), DiskId("d2" * 16))


@pytest.mark.parametrize(
    ("member", "value"),
    [("format", 2), ("order", -1), ("order", None), ("is_confirmed", None), ("base", "x"),
     ("trusted_from", "9"), ("found", "yesterday"), ("blocks", 1.5), ("is_allocation", 1)],
)  # fmt: skip
def test_a_member_of_another_type_is_refused(member: str, value: object) -> None:
    document = unseal(encode_distrust(RECORD))

    with pytest.raises(ValueError, match=member):
        decode_distrust(seal({**document, member: value}), DISK)


@given(order=st.integers(0, 20), is_full=st.booleans(), full=st.integers(8, 15))
def test_which_bases_a_record_covers(order: int, is_full: bool, full: int) -> None:
    assert RECORD.covers(order, is_full=is_full) == (order <= 7 or not is_full)
    assert RECORD.trusting_from(full).covers(order, is_full=is_full) == (order < full)
    assert unreadable(DISK).covers(order, is_full=is_full)
    assert not replace(unreadable(DISK), trusted_from=full).covers(full, is_full=False)
