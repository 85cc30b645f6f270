"""Moments: parsing and formatting of RFC 3339, and names of points in the mount."""

import re
from collections.abc import Collection
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)


def parse_moment(text: str) -> datetime:
    """Parse an RFC 3339 time; returns UTC with microseconds. ValueError if *text* is invalid."""
    match = _RFC3339.match(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time, such as 2026-11-22T00:15:03Z: {text!r}")
    date, time, fraction, zone = match.groups()
    micro = (fraction or ".0")[:7].ljust(7, "0")
    try:
        offset = zone.upper().replace("Z", "+00:00")
        return datetime.fromisoformat(f"{date}T{time}{micro}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"no such time: {text!r} ({exc})") from exc


def format_moment(moment: datetime) -> str:
    """Return RFC 3339 in UTC, with microseconds only if they are not 0."""
    utc = moment.astimezone(UTC)
    precision = "microseconds" if utc.microsecond else "seconds"
    return utc.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def point_name(moment: datetime, taken: Collection[str]) -> str:
    """Return the name of a point in the mount; a second point of the same second ends in '-2'."""
    stem = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    stem = stem.replace(":", "-") + "Z"
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    return name
