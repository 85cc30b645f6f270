"""The time zone of this machine, with its rules for summer time."""

from datetime import UTC, datetime, timedelta, tzinfo

from cbtfs.core.pointname import ClockContext
from cbtfs.errors import UsageError

LOCAL = "local"


class LocalZone(tzinfo):
    """Local time of the C library, from $TZ or /etc/localtime.

    Unlike the fixed offset of datetime.astimezone() it is correct at any moment, and unlike
    ZoneInfo it supports every form of $TZ.
    """

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        local = dt.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
        offset = local - dt.replace(tzinfo=None)
        is_second = local.replace(fold=0).astimezone().utcoffset() != offset
        return local.replace(tzinfo=self, fold=int(is_second))


def zone_of(name: str) -> tzinfo:
    """Return the time zone with this name; UsageError if it is unknown."""
    if name == LOCAL:
        return LocalZone()
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise UsageError(f"unknown time zone {name!r}: use e.g. Europe/Berlin") from exc


def current_clock(zone: str = LOCAL) -> ClockContext:
    """Return the current time with a time zone, by default this machine's."""
    return ClockContext(datetime.now(UTC), zone_of(zone))
