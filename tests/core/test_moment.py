"""Moments: RFC 3339 in, UTC out."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.moment import format_moment, parse_moment, point_name

ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES)


@given(MOMENTS)
def test_a_moment_round_trips(moment: datetime) -> None:
    assert parse_moment(format_moment(moment)) == moment


@given(MOMENTS)
def test_any_offset_names_the_same_moment(moment: datetime) -> None:
    assert parse_moment(moment.isoformat()) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T00:15:03Z", datetime(2026, 11, 22, 0, 15, 3)),
        ("2026-11-22t00:15:03z", datetime(2026, 11, 22, 0, 15, 3)),
        ("2026-11-22 00:15:03Z", datetime(2026, 11, 22, 0, 15, 3)),
        ("2026-11-22T00:15:03.5Z", datetime(2026, 11, 22, 0, 15, 3, 500_000)),
        ("2026-11-22T00:15:03.123456789Z", datetime(2026, 11, 22, 0, 15, 3, 123_456)),
        ("2026-11-22T00:15:03+05:30", datetime(2026, 11, 21, 18, 45, 3)),
        ("2026-11-22T00:15:03-11:00", datetime(2026, 11, 22, 11, 15, 3)),
    ],
)
def test_the_spellings_of_rfc_3339_are_taken(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-22",
        "2026-11-22T00:15:03",
        "2026-11-22T00:15Z",
        "2026-13-22T00:15:03Z",
        "2026-02-30T00:15:03Z",
        "2026-11-22T24:15:03Z",
        "2026-11-22T00:15:03+0530",
        "2026-11-22T00:15:03+24:00",
        "2026-11-22T00:15:03Z\n",
        " 2026-11-22T00:15:03Z",
        "٢٠٢٦-11-22T00:15:03Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_text_that_is_not_a_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no such time|not an RFC 3339 time"):
        parse_moment(text)


def test_a_point_is_named_for_its_second_in_utc() -> None:
    moment = parse_moment("2026-11-22T01:15:03.9+01:00")

    assert point_name(moment, ()) == "2026-11-22T00-15-03Z"


def test_points_of_one_second_are_numbered() -> None:
    moment = parse_moment("2026-11-22T00:15:03Z")
    taken: list[str] = []
    for _ in range(3):
        taken.append(point_name(moment, taken))

    assert taken == [f"2026-11-22T00-15-03Z{end}" for end in ("", "-2", "-3")]


@given(MOMENTS)
def test_a_name_of_a_point_holds_no_colon(moment: datetime) -> None:
    assert ":" not in point_name(moment, ())
