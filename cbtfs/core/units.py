"""Sizes and durations: parsing of the user's text, and formatting for output.

Sizes have the units K, M, G, T and P, powers of 1024. Durations have the units s, m, h and d.
Retention periods have h, d, w, mo and y. They never accept m, which once meant months: a script
that still writes 6m for six months must never get six minutes.
"""

import math
import re
from datetime import timedelta
from typing import Final

_SIZE_UNITS: Final = " KMGTP"
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_MAX_SIZE: Final = 1 << 62
_SIZE_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_RETENTION: Final = re.compile(r"(\d+)(mo|[hdwy])", re.ASCII)
_MINUTES_OR_MONTHS: Final = re.compile(r"\d+m(?!o)", re.ASCII)
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24, "mo": 31 * 24, "y": 366 * 24}
"""The longest month and year: a rule keeps a point one day too long, never one day too short."""
_MAX_HOURS: Final = 1_000_000
"""Maximum of durations and retention periods: 114 years, which date arithmetic can represent."""


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 500M or 1.5G; ValueError if *text* is not a size."""
    match = _SIZE.fullmatch(text)
    size = math.inf
    if match is not None:
        size = float(match[1]) * 1024 ** _SIZE_UNITS.index(match[2].upper() or " ")
    if size > _MAX_SIZE:
        raise ValueError(f"{text!r}: use e.g. 500M or 50G")
    return int(size)


def format_size(size: int) -> str:
    """Return *size* bytes with a binary unit and about three digits."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_SIZE_NAMES) - 1:
        value, unit = value / 1024, unit + 1
    digits = 0 if unit == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_SIZE_NAMES[unit]}"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 30m, 4h or 1d.

    A number without a unit is seconds. ValueError if *text* is not a duration, or is infinite, NaN
    or longer than a million hours.
    """
    match = _DURATION.fullmatch(text)
    try:
        seconds = float(text) if match is None else float(match[1]) * _SECONDS[match[2]]
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MAX_HOURS * 3600:
        raise ValueError(f"{text!r}: use e.g. 90s, 30m, 4h or 1d")
    return seconds


def format_duration(seconds: float) -> str:
    """Return *seconds* as 4.2 s, 75 s, 12 min or 3 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def parse_retention(text: str) -> timedelta:
    """Return the period of a retention option: 12h, 7d, 2w, 6mo (31 days each), 1y (366 days).

    Periods add up: 1y6mo. ValueError if *text* is not a period; its text names 'mo' where *text*
    has the unit m.
    """
    parts = _RETENTION.findall(text)
    hours = sum(int(count) * _HOURS[unit] for count, unit in parts)
    if parts and "".join(map("".join, parts)) == text and hours <= _MAX_HOURS:
        return timedelta(hours=hours)
    if _MINUTES_OR_MONTHS.search(text):
        months = _MINUTES_OR_MONTHS.sub(lambda match: f"{match[0]}o", text)
        raise ValueError(f"{text!r}: the unit 'm' is ambiguous; use 'mo' for months, e.g. {months}")
    raise ValueError(f"{text!r}: use e.g. 12h, 7d, 2w, 6mo or 1y")
