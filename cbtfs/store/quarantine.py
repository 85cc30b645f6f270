"""The quarantine: corrupt frames, which deduplication ignores.

The file lists locations, not digests: an intact copy of the same object counts again. A location
is dropped when its pack is gone.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.core.fields import digest_of, id_of, integer, items
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, ObjectId, PackId
from cbtfs.core.sealed import MAX_BYTES, seal, unseal
from cbtfs.errors import DataCorrupt
from cbtfs.store.backend.layout import has_record, load_record, save_record
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog.view import View
from cbtfs.store.storing import storing

QUARANTINE: Final = "quarantine"

log = logging.getLogger(__name__)


class CorruptFrame(NamedTuple):
    """Location and identity of a corrupt frame."""

    pack: PackId
    offset: int
    kind: Kind
    level: int
    digest: Digest


def corrupt_frame(pack: PackId, frame: Frame) -> CorruptFrame:
    return CorruptFrame(pack, frame.offset, frame.kind, frame.level, frame.digest)


def load_quarantine(path: Path) -> frozenset[CorruptFrame]:
    """Return the quarantine of the repository at *path*; empty, with a warning, if unreadable."""
    try:
        document = unseal(load_record(path, QUARANTINE, MAX_BYTES))
        return frozenset(
            CorruptFrame(
                PackId(id_of(item, "pack")),
                integer(item, "offset"),
                Kind(integer(item, "kind")),
                integer(item, "level"),
                digest_of(item, "digest"),
            )
            for item in items(document, "places")
        )
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, DataCorrupt) as exc:
        log.warning("the file %s is damaged (%s): run check --read-data", QUARANTINE, exc)
        return frozenset()


def save_quarantine(path: Path, frames: Collection[CorruptFrame]) -> None:
    """Replace the quarantine by *frames*. Only for the writer."""
    if not frames and not has_record(path, QUARANTINE):
        return
    document = {
        "places": [
            {**frame._asdict(), "kind": int(frame.kind), "digest": frame.digest.hex()}
            for frame in sorted(frames)
        ]
    }
    with storing("the quarantine"):
        save_record(path, QUARANTINE, seal(document))


def still_referenced(view: View, frames: Iterable[CorruptFrame]) -> dict[Digest, CorruptFrame]:
    """Return those of *frames* at which the catalog locates their objects, by digest."""
    return {digest: frame for digest, (frame, _) in _referenced(view, frames).items()}


def _referenced(
    view: View, frames: Iterable[CorruptFrame]
) -> dict[Digest, tuple[CorruptFrame, ObjectId]]:
    """Return those of *frames* at which the catalog locates an object, with that object."""
    referenced, packs = {}, view.pack_numbers()
    for frame in frames:
        pack = packs.get(frame.pack)
        if pack is None:
            continue
        number = view.find_at(frame.kind, frame.level, frame.digest, pack, frame.offset)
        if number is not None:
            referenced[frame.digest] = frame, number
    return referenced


def prefer_intact(
    update: Update,
    corrupt: Collection[CorruptFrame],
    frames: Iterable[tuple[int, PackId, Frame]],
) -> int:
    """Point objects whose frame is *corrupt* to equal *frames*; return the number of objects.

    *frames* come with the number and the id of their pack.
    """
    wanted = _referenced(update, corrupt)
    excluded = {(frame.pack, frame.offset) for frame in corrupt}
    moved = 0
    for number, pack, frame in frames:
        if frame.digest in wanted and (pack, frame.offset) not in excluded:
            _, known = wanted.pop(frame.digest)
            update.move_object(known, Location(number, frame))
            moved += 1
    return moved
