"""What commands say of the point that a name was taken to mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cbtfs.cli.report.output import say

if TYPE_CHECKING:
    from cbtfs.core.pointname import Here
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

SHORT_ID: Final = 12
"""Digits of an id that people are shown: enough to be unique in any repository."""


def resolved(point: Point) -> str:
    """A point in one phrase: what names it for certain, and its id."""
    return f"{point.spelled} (point {point.manifest.point[:SHORT_ID]})"


def find_and_say(repository: Repository, spec: str, here: Here) -> Point:
    """The point that *spec* means; which it is is said on standard error.

    For commands whose standard output is data, or a document that has no member for it.
    """
    from cbtfs.listing import find_point

    found = find_point(repository, spec, here)
    say(f"{spec}: {resolved(found)}")
    return found
