"""Messages that report the point of a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cbtfs.cli.report.output import note

if TYPE_CHECKING:
    from cbtfs.core.pointname import ClockContext
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

SHORT_ID: Final = 12
"""Digits of an id in tables and messages: enough to be unique in any repository."""


def resolved(point: Point) -> str:
    """Return a point's exact name and id, as one phrase."""
    return f"{point.spelled} (point {point.manifest.point[:SHORT_ID]})"


def find_and_say(repository: Repository, spec: str, clock: ClockContext) -> Point:
    """Return the point that *spec* names, and report it on standard error.

    For commands whose standard output is data or a fixed document.
    """
    from cbtfs.listing import find_point

    point = find_point(repository, spec, clock)
    note(f"{spec}: {resolved(point)}")
    return point
