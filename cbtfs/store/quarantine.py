"""Frames that are known to be bad: nothing is deduplicated against what stands there.

The file names places, not digests: once the same bytes stand in a good place, they count again.
A place is dropped when its pack is gone.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.core.fields import digest_of, id_of, integer, items
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, PackId
from cbtfs.core.sealed import MAX_BYTES, seal, unseal
from cbtfs.errors import DataCorrupt
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog.view import View
from cbtfs.store.files import load_file, replace, storing

QUARANTINE: Final = "quarantine"

log = logging.getLogger(__name__)


class BadPlace(NamedTuple):
    """A frame that does not hold what it should."""

    pack: PackId
    offset: int
    kind: Kind
    level: int
    digest: Digest


def bad_place(pack: PackId, frame: Frame) -> BadPlace:
    return BadPlace(pack, frame.offset, frame.kind, frame.level, frame.digest)


def load_quarantine(path: Path) -> frozenset[BadPlace]:
    """The bad places of the repository at *path*; none, and a warning, if the file is damaged."""
    try:
        document = unseal(load_file(path / QUARANTINE, MAX_BYTES))
        return frozenset(
            BadPlace(
                PackId(id_of(each, "pack")),
                integer(each, "offset"),
                Kind(integer(each, "kind")),
                integer(each, "level"),
                digest_of(each, "digest"),
            )
            for each in items(document, "places")
        )
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, DataCorrupt) as exc:
        log.warning("the file %s is damaged (%s): run check --read-data", QUARANTINE, exc)
        return frozenset()


def save_quarantine(path: Path, places: Collection[BadPlace]) -> None:
    """Let *places* be the bad ones. Only for the one writer."""
    if not places and not (path / QUARANTINE).exists():
        return
    document = {
        "places": [
            {**place._asdict(), "kind": int(place.kind), "digest": place.digest.hex()}
            for place in sorted(places)
        ]
    }
    with storing("the quarantine"):
        replace(path / QUARANTINE, seal(document))


def still_bad(view: View, places: Iterable[BadPlace]) -> dict[Digest, BadPlace]:
    """Of *places* those where the catalog looks for their objects, by digest."""
    found = {}
    for place in places:
        number = view.find(place.kind, place.level, place.digest)
        location = None if number is None else view.location(number)
        record = None if location is None else view.pack(location.pack)
        if location is None or record is None:
            continue
        if (record.id, location.frame.offset) == (place.pack, place.offset):
            found[place.digest] = place
    return found


def prefer_good(
    update: Update, places: Collection[BadPlace], frames: Iterable[tuple[int, PackId, Frame]]
) -> int:
    """Let objects in bad places be found at like *frames* elsewhere; how many there were.

    *frames* come with the number and the id of their pack.
    """
    wanted = still_bad(update, places)
    where = {(place.pack, place.offset) for place in places}
    moved = 0
    for number, pack, frame in frames:
        if frame.digest in wanted and (pack, frame.offset) not in where:
            found = update.find(frame.kind, frame.level, frame.digest)
            if found is not None:
                update.move_object(found, Location(number, frame))
                del wanted[frame.digest]
                moved += 1
    return moved
