"""The time zone of this machine, with its rules for summer time."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cbtfs.core.pointname import Here
from cbtfs.errors import UsageError

LOCAL = "local"


class LocalZone(tzinfo):
    """What the C library knows of local time, by $TZ or /etc/localtime.

    Unlike the fixed offset that datetime.astimezone() attaches it is right at any moment, and
    unlike ZoneInfo it knows every form of $TZ.
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
    """Return the time zone of that name; UsageError if there is none."""
    if name == LOCAL:
        return LocalZone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise UsageError(f"no time zone {name!r}: give one such as Europe/Berlin") from exc


def here_and_now(zone: str = LOCAL) -> Here:
    """Return what names are read by on this machine now."""
    return Here(datetime.now(UTC), zone_of(zone))
