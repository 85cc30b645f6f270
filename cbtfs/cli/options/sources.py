"""The sources that `cbtfs ingest image` is given: what a place and its options stand for."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound, UsageError
from cbtfs.listing import find_exact_point
from cbtfs.source.base import DiskSource
from cbtfs.source.export import NbdSource, change_id_of, is_uri
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.source.nbd import NbdLimits
from cbtfs.source.wrappers import ChangingSource
from cbtfs.store.repository import Repository

_STANDARD_INPUT: Final = "-"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say of the disks; by label."""

    lists: Mapping[str, ChangeList]
    bitmaps: Mapping[str, str]
    next_bitmaps: Mapping[str, str]
    timeout: float
    may_change: bool


def look_at(sources: Mapping[str, str], wishes: Wishes) -> None:
    """UsageError if the options of a disk do not go together."""
    for label in (*wishes.bitmaps, *wishes.next_bitmaps):
        if not is_uri(sources[label]):
            raise UsageError(
                f"disk {label} is no NBD export, so it has no bitmap: serve it with qemu-nbd "
                "--bitmap=NAME"
            )
    for label in wishes.bitmaps:
        if label in wishes.lists:
            raise UsageError(f"disk {label} has --changed and --bitmap: give one")
    for label in sources:
        change_id(label, wishes)
    if list(sources.values()).count(_STANDARD_INPUT) > 1:
        raise UsageError("two disks cannot both come from standard input: name the other")


def change_id(label: str, wishes: Wishes) -> str | None:
    """What the point is to record for the next one's list of changes."""
    name = wishes.next_bitmaps.get(label)
    return None if name is None else change_id_of(name)


def open_source(repository: Repository, label: str, place: str, wishes: Wishes) -> DiskSource:
    """The source at *place*: an NBD export, standard input, a file or a device."""
    source: DiskSource
    if is_uri(place):
        limits = NbdLimits(seconds=wishes.timeout)
        source = NbdSource(place, wishes.bitmaps.get(label), limits)
    else:
        source = ImageSource(_standard_input() if place == _STANDARD_INPUT else Path(place))
    if wishes.may_change:
        source = ChangingSource(source)
    try:
        source.confirm()  # what is in use already need not be read first
    except BaseException:
        source.close()
        raise
    changes = wishes.lists.get(label)
    if changes is not None:
        source = ListedSource(source, changes, _point_of(repository, changes.since))
    return source


def _standard_input() -> Path:
    """Where a redirected file can be opened again; a pipe can be read once only, and in order."""
    mode = os.fstat(0).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise UsageError(
            "standard input is no file: its size must be known before its bytes are read, so "
            "redirect a file (< FILE), or serve what the pipe is fed from by NBD"
        )
    return Path("/dev/stdin")


def _point_of(repository: Repository, since: str | None) -> PointId | None:
    """The point that a list says it is since; None if that is none, or none for certain.

    Only an exact name is certain: "latest" may have been another point when the list was made.
    """
    if since is None:
        return None
    try:
        return find_exact_point(repository, since).manifest.point
    except (PointNotFound, UsageError):
        return None
