"""Upgrade of a repository with one writer to one with shared writers, in a local directory.

States, forgotten points and records of distrust are written in the new form first, then the
required feature. Then the files of the old form are renamed or removed, by this program or by the
next one that writes. So an interruption at any time loses nothing, and may be followed by a program
of either version.
"""

import logging
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from cbtfs.core.ids import PointId, is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.core.settings import SHARED_WRITERS, encode_settings
from cbtfs.core.shared import Entry, LogEntry, RunId, encode_entry, numbered
from cbtfs.errors import DataCorrupt, UsageError
from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.layout import (
    SETTINGS,
    make_shared_places,
    open_points,
    save_record,
)
from cbtfs.store.distrust import ARMED_SUFFIX, DISTRUST_SUFFIX
from cbtfs.store.identity import new_id
from cbtfs.store.points import FORGOTTEN_SUFFIX, STATE_SUFFIX
from cbtfs.store.repository import Repository
from cbtfs.store.settings import load_settings
from cbtfs.store.shared.numbered import newest_of
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.places import Places, open_places
from cbtfs.store.shared.points import SharedPoints
from cbtfs.store.storing import storing

log = logging.getLogger(__name__)


def share(repository: Repository) -> None:
    """Give *repository*, which this program has open as its one writer, shared writers.

    A program of an older version that waits for the lock refuses the repository then. It may not be
    used any more through *repository*.

    Raises:
        UsageError: the repository has capture keys.
    """
    path = repository.path
    if repository.settings.has_signatures:
        raise UsageError(f"{path} has capture keys, which shared writers do not support yet")
    with storing("the repository"):
        make_shared_places(path)
        # An overlay of an older program changes the settings under the lock of points/.
        with (
            closing(open_points(path)) as files,
            closing(open_places(path)) as places,
            files.locked(),
        ):
            _convert(files, places)
            settings = load_settings(path)
            required = dict.fromkeys((*settings.required, SHARED_WRITERS))
            settings = replace(settings, required=tuple(required))
            save_record(path, SETTINGS, encode_settings(settings))
        finish_upgrade(path)


def _convert(files: FileBackend, places: Places) -> None:
    """Write states, forgotten points and records of distrust in the new form."""
    points = SharedPoints(places)
    for name in sorted(files.names()):
        stem, dot, suffix = name.partition(".")
        suffix = dot + suffix
        if not is_id(stem):
            continue
        if suffix == STATE_SUFFIX:
            _copy(files, name, places.states, stem)
        elif suffix == DISTRUST_SUFFIX:
            _copy(files, name, places.distrust, stem)
        elif suffix in ("", FORGOTTEN_SUFFIX):
            entry = Entry.FORGOTTEN if suffix else Entry.RESTORED
            _end_log(points, places, RunId(stem), entry)


def _copy(files: FileBackend, name: str, target: Backend, stem: str) -> None:
    """Make the content of a file the newest number of *stem*; a damaged file is left out."""
    try:
        data = files.get(name, 0, MAX_BYTES + 1).data
    except (ValueError, DataCorrupt) as exc:
        log.warning("%s is damaged and left out: %s", files.path(name), exc)
        return
    newest = newest_of(target, stem)
    if newest is None or newest[1] != data:
        number = 0 if newest is None else newest[0] + 1
        target.create(numbered(stem, number), data)


def _end_log(points: SharedPoints, places: Places, run: RunId, entry: Entry) -> None:
    """Make the log of a run end with *entry*, which an interrupted upgrade may have written."""
    found = points.log_of(run)
    if found.entry is not entry:
        data = encode_entry(LogEntry(run, entry, new_id(), this_process()))
        places.logs.create(numbered(run, found.number + 1), data)


def finish_upgrade(path: Path) -> None:
    """Rename forgotten manifests and remove states that an upgrade has left under old names.

    Several programs may do this at once.
    """
    with closing(open_points(path)) as files:
        for name in files.names():
            stem, dot, suffix = name.partition(".")
            if not dot or not is_id(stem):
                continue
            if dot + suffix == FORGOTTEN_SUFFIX:
                with suppress(FileNotFoundError):
                    files.rename(name, PointId(stem))
            elif dot + suffix in (STATE_SUFFIX, DISTRUST_SUFFIX, ARMED_SUFFIX):
                files.delete(name)
