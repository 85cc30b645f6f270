import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.moment import format_moment, point_name
from cbtfs.core.pointname import (
    ClockContext,
    Good,
    IdPrefix,
    Latest,
    MountName,
    Request,
    Until,
    parse_request,
    parse_since,
    parse_until,
)
from cbtfs.listing.zone import LocalZone

NOW = datetime(2026, 11, 28, 22, 0, 7, 250_000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
TICK = timedelta(microseconds=1)
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC))


def parse(text: str, zone: tzinfo = UTC) -> Request:
    return parse_request(text, ClockContext(NOW, zone))


def last(text: str, zone: tzinfo = UTC) -> str:
    request = parse(text, zone)
    assert isinstance(request, Until)
    return format_moment(request.last)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("latest", Latest()),
        ("latest~0", Latest()),
        ("latest~12", Latest(12)),
        ("good", Good()),
        ("-2d", Until(NOW - timedelta(days=2))),
        ("-36h", Until(NOW - timedelta(hours=36))),
        ("-90min", Until(NOW - timedelta(minutes=90))),
        ("-2w", Until(NOW - timedelta(days=14))),
        ("3f", IdPrefix("3f")),
        ("20261120", IdPrefix("20261120")),
        ("2026-11-22T00-15-03Z", MountName(datetime(2026, 11, 22, 0, 15, 3, tzinfo=UTC))),
        ("2026-11-22T00-15-03Z-2", MountName(datetime(2026, 11, 22, 0, 15, 3, tzinfo=UTC))),
    ],
)
def test_each_form_is_one_request(text: str, request_: Request) -> None:
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", "2026-11-20T23:59:59.999999Z"),
        ("2026-11-20T14:00", "2026-11-20T14:00:59.999999Z"),
        ("2026-11-20T14:00:03", "2026-11-20T14:00:03.999999Z"),
        ("2026-11-20T14:00:03.5", "2026-11-20T14:00:03.599999Z"),
        ("2026-11-20T14:00:03.123456", "2026-11-20T14:00:03.123456Z"),
        ("2026-11-20T14:00:03.123456789Z", "2026-11-20T14:00:03.123456Z"),
        ("2026-11-20T14:00+02:00", "2026-11-20T12:00:59.999999Z"),
        ("2026-11-20 14:00:03-05:30", "2026-11-20T19:30:03.999999Z"),
        ("2026-11-20t14:00:03z", "2026-11-20T14:00:03.999999Z"),
        ("2026-11-20Z", "2026-11-20T23:59:59.999999Z"),
        ("9999-12-31", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_lasts_until_the_end_of_the_unit_that_was_written(text: str, moment: str) -> None:
    assert last(text) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", "2026-11-20T22:59:59.999999Z"),
        ("2026-11-20Z", "2026-11-20T23:59:59.999999Z"),
        ("2026-07-01T14:00", "2026-07-01T12:00:59.999999Z"),
        ("2026-03-29", "2026-03-29T21:59:59.999999Z"),  # of 23 hours
        ("2026-10-25", "2026-10-25T22:59:59.999999Z"),  # of 25 hours
        ("2026-10-25T01:59", "2026-10-24T23:59:59.999999Z"),
        ("2026-10-25T02:30", "2026-10-25T01:30:59.999999Z"),  # comes twice: the second time
        ("2026-10-25T03:00", "2026-10-25T02:00:59.999999Z"),
        ("2026-03-29T01:59", "2026-03-29T00:59:59.999999Z"),
        ("2026-03-29T02:30", "2026-03-29T00:59:59.999999Z"),  # never comes: until clocks are set
        ("2026-03-29T03:00", "2026-03-29T01:00:59.999999Z"),
    ],
)
def test_a_time_without_an_offset_is_local_on_days_when_clocks_are_set_too(
    text: str, moment: str
) -> None:
    assert last(text, BERLIN) == moment


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set local time by a form of $TZ that only the C library supports."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    assert os.environ.get("TZ") != "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("month", [3, 10])
def test_the_zone_of_the_machine_is_its_rules_at_every_minute_of_the_days(month: int) -> None:
    start = datetime(2026, month, 29 if month == 3 else 25, tzinfo=UTC) - timedelta(hours=4)
    for minute in range(32 * 60):
        moment = start + timedelta(minutes=minute)
        local, expected = moment.astimezone(LocalZone()), moment.astimezone(BERLIN)
        assert local.replace(tzinfo=None) == expected.replace(tzinfo=None)
        assert (local.fold, local.utcoffset()) == (expected.fold, expected.utcoffset())
        text = f"{expected:%Y-%m-%dT%H:%M}"
        assert last(text, LocalZone()) == last(text, BERLIN)


@settings(max_examples=25)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.sampled_from([datetime(2026, 3, 8), datetime(2026, 3, 29), datetime(2026, 4, 5)])
    | st.sampled_from([datetime(2026, 10, 4), datetime(2026, 10, 25), datetime(2026, 11, 1)]),
    st.integers(0, 4 * 60),
)
def test_the_last_minute_is_what_a_search_through_all_minutes_finds(
    name: str, day: datetime, minute: int
) -> None:
    zone, wall = ZoneInfo(name), day + timedelta(minutes=minute)
    start = day.replace(tzinfo=UTC) - timedelta(days=1)
    instants = (start + timedelta(minutes=n) for n in range(3 * 1440))
    shown = [t for t in instants if t.astimezone(zone).replace(tzinfo=None) <= wall]

    assert last(f"{wall:%Y-%m-%dT%H:%M}", zone) == format_moment(
        max(shown) + timedelta(minutes=1) - TICK
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", "2026-11-19T23:00:00Z"),
        ("2026-11-20Z", "2026-11-20T00:00:00Z"),
        ("2026-11-20T14:00:03.5+02:00", "2026-11-20T12:00:03.500000Z"),
        ("2026-11-20T14-00-03Z", "2026-11-20T14:00:03Z"),
        ("-2d", "2026-11-26T22:00:07.250000Z"),
        ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),  # comes twice: the first time
        ("2026-03-29T02:30", "2026-03-29T01:00:00Z"),  # never comes: when clocks are set
    ],
)
def test_since_is_the_first_instant_of_the_unit(text: str, moment: str) -> None:
    assert format_moment(parse_since(text, ClockContext(NOW, BERLIN))) == moment


@pytest.mark.parametrize(
    "text", ["2026-11-20", "2026-07-01T14:00", "2026-10-25T02:30", "2026-03-29T02:30", "-2d"]
)
def test_until_is_the_end_that_names_of_points_have(text: str) -> None:
    assert format_moment(parse_until(text, ClockContext(NOW, BERLIN))) == last(text, BERLIN)


def test_until_is_the_end_of_the_second_of_a_point() -> None:
    end = parse_until("2026-11-20T14-00-03Z", ClockContext(NOW, BERLIN))

    assert format_moment(end) == "2026-11-20T14:00:03.999999Z"


@pytest.mark.parametrize("text", ["latest", "good", "20261120", "", "2d", "2026-11-20T25:00"])
def test_a_bound_is_a_time(text: str) -> None:
    for parse_bound in (parse_since, parse_until):
        with pytest.raises(ValueError, match=r"no such time|is not a time"):
            parse_bound(text, ClockContext(NOW, BERLIN))


@given(MOMENTS, st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_a_printed_time_is_read_back_with_any_offset(moment: datetime, minutes: int) -> None:
    shifted = moment.astimezone(timezone(timedelta(minutes=minutes)))
    for text in (format_moment(moment), shifted.isoformat()):
        request = parse(text, BERLIN)

        assert isinstance(request, Until)
        assert request.exact == moment
        assert request.last - moment in (timedelta(0), timedelta(seconds=1) - TICK)


@given(MOMENTS)
def test_the_mounts_spelling_is_no_time_but_a_name(moment: datetime) -> None:
    assert parse(point_name(moment, ())) == MountName(moment.replace(microsecond=0))


@pytest.mark.parametrize("text", ["2026-11-20", "2026-11-20T14:00Z", "2026-11-20T14:00:03", "-2d"])
def test_only_a_whole_time_with_its_offset_is_exact(text: str) -> None:
    request = parse(text)
    assert isinstance(request, Until)
    assert request.exact is None


NO_FORMS = """
yesterday latest~ latest~-1 Latest -2m -2y 2w --2d -d +2d 2026-13-01 2026-02-30 2026-11-20T25:00
2026-11-20T14 2026-11 -999999999w 2026-11-20T14:00:60Z 2026-11-20T14:00+99:00
2026-11-20T14:00+01:60 -\uff12d ABCDEF 0001-01-01T00:00+23:00 fffffffffffffffffffffffffffffffff
"""


@pytest.mark.parametrize("text", ["", "2026-11-20\n", "latest\n", "good\n", *NO_FORMS.split()])
def test_text_without_a_known_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no such time|neither"):
        parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_request_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text, BERLIN)
