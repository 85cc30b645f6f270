"""The grammar of point names after `VM@`, parsed into typed requests.

The caller passes the current time and the time zone. A time means the newest point that is not
later than the end of its last unit, so every form of a time becomes one moment.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

_LATEST: Final = re.compile(r"latest(?:~(\d{1,9}))?\Z", re.ASCII)
_RELATIVE: Final = re.compile(r"-(\d{1,9})(min|h|d|w)\Z", re.ASCII)
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?([Zz]|[+-]\d\d:\d\d)?\Z",
    re.ASCII,
)
_MOUNT: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d)Z(?:-\d+)?\Z", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{1,32}\Z", re.ASCII)
_UNITS: Final = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_TICK: Final = timedelta(microseconds=1)
"""Points have times to the microsecond."""

FORMS: Final = (
    "latest, latest~1, good, proven, -2d, 2026-11-20, 2026-11-20T14:00, 2026-11-20T14:00:03Z, "
    "2026-11-20T14-00-03Z or the start of an id"
)


@dataclass(frozen=True, slots=True)
class ClockContext:
    """The current time and the time zone by which names are read."""

    now: datetime
    """Current time with a time zone, for relative names."""
    zone: tzinfo
    """Time zone of times without an offset."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest point, or the one that is *back* points older."""

    back: int = 0


@dataclass(frozen=True, slots=True)
class Good:
    """The latest point that is neither damaged nor suspect."""


@dataclass(frozen=True, slots=True)
class ProvenPoint:
    """The latest point whose file systems were checked (`prove --level 3`)."""


@dataclass(frozen=True, slots=True)
class Until:
    """The newest point that is not later than *last*."""

    last: datetime
    """Last microsecond of the last unit of the text, in UTC."""
    exact: datetime | None = None
    """The moment itself if the text has date, seconds and offset."""


@dataclass(frozen=True, slots=True)
class MountName:
    """The point with exactly this time, in the form of the mount."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class IdPrefix:
    """The point whose id starts with *digits*."""

    digits: str


Request = Latest | Good | ProvenPoint | Until | MountName | IdPrefix


def parse_request(text: str, clock: ClockContext) -> Request:
    """Parse *text* into a request; ValueError if it matches no form."""
    if match := _LATEST.match(text):
        return Latest(int(match[1] or 0))
    if text == "good":
        return Good()
    if text == "proven":
        return ProvenPoint()
    if _HEX.match(text):
        return IdPrefix(text)
    try:
        if match := _RELATIVE.match(text):
            return Until((clock.now - int(match[1]) * _UNITS[match[2]]).astimezone(UTC))
        if match := _MOUNT.match(text):
            date, hour, minute, second = match.groups()
            return MountName(datetime.fromisoformat(f"{date}T{hour}:{minute}:{second}+00:00"))
        if match := _TIME.match(text):
            return _until(match, clock.zone)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"no such time: {text!r} ({exc})") from exc
    raise ValueError(f"{text!r} is neither the name of a point nor a time: use e.g. {FORMS}")


def parse_since(text: str, clock: ClockContext) -> datetime:
    """Return the first instant of the unit that *text* names, in UTC: a day, a minute, a second.

    *text* is a time as in names of points, or -2d. ValueError if it is neither.
    """
    return _bound(text, clock, _first_of)


def parse_until(text: str, clock: ClockContext) -> datetime:
    """Return the last microsecond of the unit that *text* names, in UTC.

    *text* is a time as in names of points, or -2d. ValueError if it is neither.
    """
    return _bound(text, clock, _last_of)


def _bound(
    text: str, clock: ClockContext, of_unit: "Callable[[_Written, tzinfo], datetime]"
) -> datetime:
    request = parse_request(text, clock) if _MOUNT.match(text) or _RELATIVE.match(text) else None
    if isinstance(request, MountName):
        written = _Written(request.moment.replace(tzinfo=None), timedelta(seconds=1), UTC)
        return of_unit(written, UTC)
    if isinstance(request, Until):
        return request.last
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time: use e.g. -2d, 2026-11-20 or 2026-11-20T14:00")
    try:
        return of_unit(_written(match), clock.zone)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"no such time: {text!r} ({exc})") from exc


@dataclass(frozen=True, slots=True)
class _Written:
    """A time as it was written: the start of a unit on a clock."""

    first: datetime
    """Naive."""
    unit: timedelta
    offset: tzinfo | None
    """The zone that was written; None for the zone of the machine."""

    @property
    def last(self) -> datetime:
        return self.first + (self.unit - _TICK)


def _written(match: re.Match[str]) -> _Written:
    date, minutes, second, fraction, offset = match.groups()
    micro = (fraction or "")[:6]
    first = datetime.fromisoformat(
        f"{date}T{minutes or '00:00'}:{second or '00'}.{micro.ljust(6, '0')}"
    )
    if minutes is None:
        unit = timedelta(days=1)
    elif second is None:
        unit = timedelta(minutes=1)
    else:
        unit = timedelta(seconds=1) / 10 ** len(micro)
    fixed = None if offset is None else UTC if offset in "Zz" else _offset(offset)
    return _Written(first, unit, fixed)


def _until(match: re.Match[str], zone: tzinfo) -> Until:
    written = _written(match)
    last = _last_of(written, zone)
    if written.offset is None or match[3] is None:
        return Until(last)
    return Until(last, written.first.replace(tzinfo=written.offset).astimezone(UTC))


def _first_of(written: _Written, zone: tzinfo) -> datetime:
    if written.offset is None:
        return _first_instant(written.first, zone)
    return written.first.replace(tzinfo=written.offset).astimezone(UTC)


def _last_of(written: _Written, zone: tzinfo) -> datetime:
    if written.offset is None:
        return _last_instant(written.last, zone)
    return written.last.replace(tzinfo=written.offset).astimezone(UTC)


def _offset(text: str) -> timezone:
    hours, minutes = int(text[1:3]), int(text[4:6])
    if minutes > 59:
        raise ValueError("offset out of range")
    return timezone(timedelta(hours=hours, minutes=minutes) * (-1 if text[0] == "-" else 1))


def _first_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which clocks in *zone* show *wall* or more, in UTC.

    Where clocks are set back and show it twice, that is the first time; where they are set forward
    and never show it, the instant at which they are.
    """
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return first if first <= second else _last_instant(wall, zone) + _TICK


def _last_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the last instant at which clocks in *zone* show at most *wall*, in UTC.

    If clocks are set back and show *wall* twice, it is the second time. If they are set forward and
    never show it, it is the instant before the change.
    """
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first <= second:
        return second
    low, high = second, first  # PEP 495: in a gap fold=1 is before the transition, fold=0 after
    while high - low > _TICK:
        middle = low + (high - low) // 2
        if middle.astimezone(zone).replace(tzinfo=None) <= wall:
            low = middle
        else:
            high = middle
    return low
