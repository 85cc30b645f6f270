"""Catch-up of a catalog in a repository with shared writers.

Other programs change points/, packs/ and the catalog meanwhile. So points are listed first, then
packs: the packs of a listed point exist. Only what the catalog knew before a listing can be gone.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, ObjectId, PackId, PointId
from cbtfs.core.manifest import decode_manifest
from cbtfs.errors import ChunkMissing
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import ORDER, POINTS, CatalogDamaged, Location
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog.view import View
from cbtfs.store.catchup import (
    Findings,
    add_packs,
    changed_states,
    lacks_nothing,
    recover_objects,
    settle_points,
)
from cbtfs.store.packs import PackFolder
from cbtfs.store.quarantine import CorruptFrame, prefer_intact
from cbtfs.store.shared.avoided import frames_of, located_in
from cbtfs.store.shared.points import Look, SharedPoints

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 5
"""Looks, because a prune may delete a pack between its listing and its opening."""

Unknown = Mapping[PackId, tuple[list[Frame], str | None]]


@dataclass(slots=True)
class _Known:
    """Knowledge of the catalog before points and packs were listed."""

    packs: Mapping[PackId, int]
    points: Collection[PointId]
    limit: int
    """Objects from this number on were added later."""


@dataclass(slots=True)
class _Lost:
    """Objects in packs that are gone or condemned, and the nodes above those that are gone."""

    packs: set[int] = field(default_factory=set)
    """Numbers of the packs that are gone."""
    avoided: set[int] = field(default_factory=set)
    """Numbers of the packs that objects should leave: these and the condemned ones."""
    located: dict[ObjectId, Location] = field(default_factory=dict)
    """Objects in *avoided*."""


def follow(
    catalog: Catalog,
    packs: PackFolder,
    points: SharedPoints,
    corrupt: Collection[CorruptFrame] = (),
) -> tuple[Findings, Look]:
    """Bring *catalog* in step with points and packs; return what they were.

    Of equal frames it prefers one that is not in *corrupt*.
    """
    packs.remove_leftovers()
    for _ in range(_ATTEMPTS - 1):
        try:
            return _follow(catalog, packs, points, corrupt)
        except ChunkMissing as exc:
            log.info("looking again: %s, because a prune has deleted it", exc)
    return _follow(catalog, packs, points, corrupt)


def _follow(
    catalog: Catalog,
    packs: PackFolder,
    points: SharedPoints,
    corrupt: Collection[CorruptFrame],
) -> tuple[Findings, Look]:
    with catalog.view() as view:
        if view.count(POINTS) != view.count(ORDER):
            raise CatalogDamaged("points and their order do not agree")
        known = _Known(view.pack_numbers(), set(view.point_ids()), view.next_object())
        points.trust(known.points, view.runs)
    with points.snapshot() as look:
        present = packs.ids() - look.prunes.packs
        with catalog.view() as view:
            is_in_step = (
                present == known.packs.keys()
                and lacks_nothing(view, points)
                and not changed_states(points, view.points(), view.missing)
            )
            missing = view.missing
        condemned = look.prunes.condemned
        if is_in_step and not condemned.intersection(known.packs):
            return Findings(missing=missing), look
        unknown = _load(packs, present - known.packs.keys())
        if is_in_step and not unknown:
            return Findings(missing=missing), look
        leaving = frames_of(packs, condemned.intersection(known.packs) if unknown else ())
        with catalog.view() as view:
            lost = _find_lost(view, known, present, leaving)

        def change(update: Update) -> Findings:
            return _apply(update, packs, points, corrupt, known, look, unknown, lost)

        findings = catalog.update(change)
    for problem in (*findings.packs_scanned, *findings.unreadable):
        log.warning("%s", problem)
    return findings, look


def _load(packs: PackFolder, unknown: Iterable[PackId]) -> Unknown:
    """Return the frames of unknown packs; a pack may be deleted meanwhile."""
    loaded = {}
    for pack in sorted(unknown):
        with suppress(ChunkMissing):
            loaded[pack] = packs.frames(pack)
    return loaded


def _find_lost(
    view: View,
    known: _Known,
    present: Collection[PackId],
    leaving: Mapping[PackId, Iterable[Frame]],
) -> _Lost:
    """Find the objects in packs that are gone, and in *leaving*: condemned packs and frames."""
    lost = _Lost({number for pack, number in known.packs.items() if pack not in present})
    lost.avoided = lost.packs | {known.packs[pack] for pack in leaving}
    lost.located = located_in(view, leaving)
    if lost.packs:
        lost.located |= {n: at for n, at in view.all_locations() if at.pack in lost.packs}
    return lost


def _apply(
    update: Update,
    packs: PackFolder,
    points: SharedPoints,
    corrupt: Collection[CorruptFrame],
    known: _Known,
    look: Look,
    unknown: Unknown,
    lost: _Lost,
) -> Findings:
    findings = Findings()
    update.keep_numbers()
    numbers = update.pack_numbers()
    # A verdict may exist since the listing. A writer whose look is later than the verdict would use
    # the objects of a deleted pack, if this turn entered it.
    gone = points.prunes().packs if unknown else frozenset[PackId]()
    new = {p: frames for p, frames in unknown.items() if p not in numbers and p not in gone}
    findings.packs_lost = sorted(p for p, n in numbers.items() if n in lost.packs)
    _move(update, packs, new, look.prunes.condemned, lost, findings)
    _drop(update, known, lost, findings)
    add_packs(update, packs, new, findings)
    if corrupt and new:
        numbers = update.pack_numbers()
        frames = ((numbers[p], p, f) for p, (added, _) in new.items() for f in added)
        findings.objects_moved += prefer_intact(update, corrupt, frames)
    before = set(update.point_ids())
    settle_points(update, points, findings, known.points)
    added_points = set(update.point_ids()) - before
    wanted = None if findings.objects_dropped else added_points
    if (findings.objects_dropped or added_points) and _lacks_roots(update, wanted):
        numbers = update.pack_numbers()
        recover_objects(update, packs, numbers.keys() - {*findings.packs_lost}, corrupt, findings)
    update.add_runs(points.other_runs())
    return findings


def _move(
    update: Update,
    packs: PackFolder,
    new: Unknown,
    condemned: Collection[PackId],
    lost: _Lost,
    findings: Findings,
) -> None:
    """Move objects that are in *lost* packs to equal frames in new packs that surely stay."""
    wanted = {location.frame.digest: number for number, location in lost.located.items()}
    for pack, (frames, _) in new.items():
        equal = [f for f in frames if f.digest in wanted and pack not in condemned]
        if not equal:
            continue
        number = update.add_pack(pack, packs.open(pack).size, len(frames))
        for frame in equal:
            moved = wanted.pop(frame.digest, None)
            if moved is None:
                continue
            location = update.location(moved)
            if location is not None and location.pack in lost.avoided:
                update.move_object(moved, Location(number, frame))
                findings.objects_moved += 1


def _drop(update: Update, known: _Known, lost: _Lost, findings: Findings) -> None:
    """Drop the objects that are still in packs that are gone, with all nodes above them."""
    if not lost.packs:
        return
    dropped: dict[ObjectId, Location] = {}
    for number in lost.located:
        location = update.location(number)
        if location is not None and location.pack in lost.packs:
            dropped[number] = location
    later = update.locations_from(known.limit)
    dropped |= {number: location for number, location in later if location.pack in lost.packs}
    if dropped:
        for node, children in update.children_from(min(dropped)):
            if node not in dropped and not dropped.keys().isdisjoint(children):
                location = update.location(node)
                if location is not None:
                    dropped[node] = location
        update.drop_objects(dropped.items())
    findings.objects_dropped = len(dropped)
    for pack in lost.packs:
        update.drop_pack(pack)


def _lacks_roots(update: Update, wanted: Collection[PointId] | None) -> bool:
    """Return whether a disk of *wanted* points, or of any point, has no known root."""
    for point, record in update.points():
        if wanted is not None and point not in wanted:
            continue
        for disk in decode_manifest(record.manifest).disks:
            height = Shape(disk.size, disk.block_size).height
            if disk.root != NULL_DIGEST and update.find(Kind.NODE, height, disk.root) is None:
                return True
    return False
