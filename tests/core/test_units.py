"""Parsing and formatting of sizes, durations and retention periods."""

from datetime import timedelta

import pytest

from cbtfs.core.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_retention,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("12h", 12),
        ("7d", 168),
        ("2w", 336),
        ("6mo", 6 * 31 * 24),
        ("1y6mo", 366 * 24 + 6 * 31 * 24),
        ("1000000h", 1_000_000),
    ],
)
def test_retention_periods_have_hours_days_weeks_months_and_years(text: str, hours: int) -> None:
    assert parse_retention(text) == timedelta(hours=hours)


@pytest.mark.parametrize(("text", "months"), [("6m", "6mo"), ("1y6m", "1y6mo"), ("2m3d", "2mo3d")])
def test_the_unit_m_of_a_retention_period_is_refused_and_the_error_names_mo(
    text: str, months: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"'m' is ambiguous; use 'mo' for months, e\.g\. {months}$"
    ):
        parse_retention(text)


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7 d", "-7d", "7d!", "٣d", "9999999999y", "1000001h", "6M", "90s", "mo"]
)
def test_other_text_is_not_a_retention_period(text: str) -> None:
    with pytest.raises(ValueError, match=r"use e\.g\. 12h, 7d, 2w, 6mo or 1y"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)],
)
def test_durations_have_seconds_minutes_hours_and_days(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "5x", "6mo", "-1", "-1s", "1h30m", "soon", "2w"),
        *("nan", "inf", "-inf", "Infinity", "1e999", "9" * 400 + "d", "1000001h"),
    ],
)
def test_other_text_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"use e\.g\. 90s, 30m, 4h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500", 500), ("1K", 1 << 10), ("1.5GiB", 3 << 29), ("2tb", 2 << 40)],
)
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1 G", "5%", "9" * 400, "9999999999P"])
def test_other_text_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"use e\.g\. 500M or 50G"):
        parse_size(text)


def test_sizes_are_shown_with_about_three_digits() -> None:
    sizes = [format_size(size) for size in (0, 999, 1000, 1 << 20, 123 << 30)]

    assert sizes == ["0 B", "999 B", "0.98 KiB", "1.00 MiB", "123 GiB"]


def test_durations_are_shown_in_the_unit_that_fits() -> None:
    shown = [format_duration(seconds) for seconds in (4.24, 75, 720, 11100)]

    assert shown == ["4.2 s", "75 s", "12 min", "3 h 5 min"]
