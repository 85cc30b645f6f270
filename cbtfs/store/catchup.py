"""Bringing a catalog up to what packs/ and points/ hold: after a crash, or from nothing.

One transaction, in the order that keeps the rule of the catalog: what stands in its digests has
its whole subtree standing (docs/architecture.md, "Catching up").
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cbtfs.core.blockmap import FANOUT, Shape
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import DIGEST_BYTES, NULL_DIGEST, Digest, ObjectId, PackId, PointId
from cbtfs.core.manifest import Manifest, decode_manifest, encode_state
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import (
    ORDER,
    POINTS,
    CatalogDamaged,
    Location,
    PointRecord,
)
from cbtfs.store.catalog.update import NewObject, Update
from cbtfs.store.catalog.view import View
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder
from cbtfs.store.quarantine import BadPlace, prefer_good

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Findings:
    """What a catalog lacked or had too much of."""

    packs_added: int = 0
    packs_lost: list[PackId] = field(default_factory=list)
    packs_scanned: list[str] = field(default_factory=list)
    """What is wrong with the trailers of packs that were read frame by frame."""
    objects_added: int = 0
    objects_moved: int = 0
    objects_dropped: int = 0
    nodes_left_out: int = 0
    """Nodes with a child that is nowhere, or that are damaged."""
    nodes_mended: int = 0
    """Nodes whose frames were bad or gone, written anew from what the old catalog knew."""
    points_added: int = 0
    points_dropped: int = 0
    states_changed: int = 0
    missing: frozenset[PointId] = frozenset()
    """Points that the catalog knows and that have neither a manifest nor a forgotten one."""
    missing_changed: bool = False
    unreadable: list[str] = field(default_factory=list)
    """What is wrong with manifests that cannot be read."""

    @property
    def changed_objects(self) -> bool:
        return bool(self.packs_added or self.packs_lost or self.objects_added)

    @property
    def is_empty(self) -> bool:
        """Whether the catalog was as it should be."""
        return not (
            self.changed_objects
            or self.points_added
            or self.points_dropped
            or self.states_changed
            or self.missing_changed
        )


class Placed(NamedTuple):
    """A frame, and the number and id of its pack."""

    pack: int
    id: PackId
    frame: Frame


def catch_up(
    catalog: Catalog,
    packs: PackFolder,
    points: PointFolder,
    bad: Collection[BadPlace] = (),
) -> Findings:
    """Make *catalog* say what the folders hold. Only for the one writer.

    Of like frames one that is not in *bad* is taken.
    """
    packs.remove_leftovers()
    points.remove_leftovers()
    present = packs.ids()
    with catalog.view() as view:
        known = view.pack_numbers()
        if view.count(POINTS) != view.count(ORDER):
            raise CatalogDamaged("points and their order do not agree")
        in_step = (
            present == known.keys()
            and not view.may_be_completed
            and lacks_nothing(view, points)
            and not _changed_states(points, view.points(), view.missing)
        )
        missing = view.missing
    if in_step:
        return Findings(missing=missing)

    def change(update: Update) -> Findings:
        findings = Findings()
        numbers = update.pack_numbers()
        update.keep_numbers()
        unknown = {pack: packs.frames(pack) for pack in sorted(present - numbers.keys())}
        _settle_lost_packs(update, packs, unknown, numbers, present, findings)
        _add_packs(update, packs, unknown, findings)
        if bad and unknown:
            numbers = update.pack_numbers()
            frames = ((numbers[p], p, f) for p, (found, _) in unknown.items() for f in found)
            findings.objects_moved += prefer_good(update, bad, frames)
        if update.is_incomplete or findings.nodes_left_out or findings.objects_dropped:
            _complete(update, packs, present, findings)
        settle_points(update, points, findings)
        if findings.points_added and _lacks_maps(update):
            recover_objects(update, packs, present, bad, findings)
        if findings.packs_added or findings.points_added:
            doubt_later_points(update)
        if not findings.is_empty:
            update.renew_generation()
        return findings

    findings = catalog.update(change)
    for problem in (*findings.packs_scanned, *findings.unreadable):
        log.warning("%s", problem)
    return findings


def lacks_nothing(view: View, points: PointFolder) -> bool:
    """Whether the catalog knows every point there is, and which of its points are missing."""
    there, known = points.ids(), set(view.point_ids())
    gone = known - there
    if not there <= known or gone != view.missing:
        return False
    return not gone or not gone & points.forgotten_ids()


def _changed_states(
    points: PointFolder,
    records: Iterable[tuple[PointId, PointRecord]],
    missing: Collection[PointId],
) -> set[PointId]:
    """Points whose state file is not the one that the catalog copied.

    The copy of a missing point's state is kept when its file is gone, too.
    """
    marks = points.marks()
    return {
        point
        for point, record in records
        if marks.get(point, b"").ljust(24, b"\0") != record.mark
        and (point in marks or point not in missing)
    }


Unknown = Mapping[PackId, tuple[list[Frame], str | None]]


def _settle_lost_packs(
    update: Update,
    packs: PackFolder,
    unknown: Unknown,
    numbers: Mapping[PackId, int],
    present: set[PackId],
    findings: Findings,
) -> None:
    """Objects of packs that are gone move to a like frame elsewhere, or go with all above them."""
    lost = {number for pack, number in numbers.items() if pack not in present}
    if not lost:
        return
    findings.packs_lost = sorted(pack for pack in numbers if pack not in present)
    homeless = {n: place for n, place in update.all_locations() if place.pack in lost}
    wanted = {place.frame.digest: number for number, place in homeless.items()}
    for pack, (frames, _) in unknown.items():
        mine = [frame for frame in frames if frame.digest in wanted]
        if mine:
            number = update.add_pack(pack, packs.open(pack).size, len(frames))
            for frame in mine:
                _move(update, wanted, homeless, Location(number, frame), findings)
    for pack, number in numbers.items():
        if wanted and pack in present:
            for frame in packs.frames(pack)[0]:
                _move(update, wanted, homeless, Location(number, frame), findings)
    dropped = dict(homeless)
    for node, children in update.all_children():
        if node not in dropped and any(child in dropped for child in children if child):
            place = update.location(node)
            if place is not None:
                dropped[node] = place
    update.drop_objects(dropped.items())
    findings.objects_dropped = len(dropped)
    for number in lost:
        update.drop_pack(number)


def _move(
    update: Update,
    wanted: dict[Digest, ObjectId],
    homeless: dict[ObjectId, Location],
    place: Location,
    findings: Findings,
) -> None:
    number = wanted.get(place.frame.digest)
    if number is not None:
        update.move_object(number, place)
        del wanted[place.frame.digest], homeless[number]
        findings.objects_moved += 1


def _add_packs(update: Update, packs: PackFolder, unknown: Unknown, findings: Findings) -> None:
    """Objects of packs that the catalog does not know: chunks first, then nodes level by level."""
    numbers = update.pack_numbers()
    nodes: list[Placed] = []
    for pack, (frames, problem) in unknown.items():
        if problem is not None:
            findings.packs_scanned.append(f"{problem}; read frame by frame")
        number = numbers.get(pack) or update.add_pack(pack, packs.open(pack).size, len(frames))
        findings.packs_added += 1
        add_chunks(update, number, frames, findings)
        nodes += (Placed(number, pack, frame) for frame in frames if frame.kind is Kind.NODE)
    findings.nodes_left_out = len(add_nodes(update, packs, nodes, findings))


def add_chunks(update: Update, pack: int, frames: Iterable[Frame], findings: Findings) -> None:
    """Add the chunks of pack number *pack* that are not known."""
    chunks = {frame.digest: frame for frame in frames if frame.kind is Kind.CHUNK}
    fresh = [f for f in chunks.values() if update.find(f.kind, f.level, f.digest) is None]
    _add(update, pack, [(frame, None) for frame in fresh], findings)


def _complete(update: Update, packs: PackFolder, present: set[PackId], findings: Findings) -> None:
    """Nodes of all packs that were left out, now that their children may be known."""
    numbers = update.pack_numbers()
    nodes = [
        Placed(numbers[pack], pack, frame)
        for pack in sorted(present)
        for frame in packs.frames(pack)[0]
        if frame.kind is Kind.NODE
    ]
    findings.nodes_left_out = len(add_nodes(update, packs, nodes, findings))
    update.set_incomplete(findings.nodes_left_out > 0)


def _lacks_maps(update: Update) -> bool:
    """Whether the root of any disk is unknown: with a root, all below it is known."""
    for _, record in update.points():
        for disk in decode_manifest(record.manifest).disks:
            height = Shape(disk.size, disk.block_size).height
            if disk.root != NULL_DIGEST and update.find(Kind.NODE, height, disk.root) is None:
                return True
    return False


def recover_objects(
    update: Update,
    packs: PackFolder,
    present: set[PackId],
    bad: Collection[BadPlace],
    findings: Findings,
) -> None:
    """Add the objects of known packs that the catalog does not know.

    A prune drops the objects of a forgotten point from the catalog and keeps packs that are worth
    keeping. If the manifest is put back, the objects are still there.
    """
    numbers = update.pack_numbers()
    for pack in sorted(present):
        try:
            frames = packs.frames(pack)[0]
        except (ChunkMissing, DataCorrupt):
            continue
        add_chunks(update, numbers[pack], frames, findings)
        if bad:
            prefer_good(update, bad, ((numbers[pack], pack, frame) for frame in frames))
    _complete(update, packs, present, findings)


def add_nodes(
    update: Update, packs: PackFolder, nodes: Iterable[Placed], findings: Findings
) -> set[tuple[int, Digest]]:
    """Add the nodes that are not known, the lowest first; level and digest of those left out."""
    left_out = set()
    for node in sorted(nodes, key=lambda each: each.frame.level):
        frame = node.frame
        if update.find(frame.kind, frame.level, frame.digest) is not None:
            continue
        children = _resolve(update, packs, node)
        if children is None:
            left_out.add((frame.level, frame.digest))
        else:
            _add(update, node.pack, [(frame, children)], findings)
    return still_left_out(update, left_out)


def still_left_out(update: Update, nodes: Iterable[tuple[int, Digest]]) -> set[tuple[int, Digest]]:
    """Of *nodes* those that are not known: of several frames of a node one is enough."""
    return {node for node in nodes if update.find(Kind.NODE, *node) is None}


def _add(
    update: Update,
    pack: int,
    frames: list[tuple[Frame, list[ObjectId] | None]],
    findings: Findings,
) -> None:
    first = update.next_object()
    objects = [
        NewObject(ObjectId(first + n), frame, children)
        for n, (frame, children) in enumerate(frames)
    ]
    update.add_objects(pack, objects)
    findings.objects_added += len(objects)


def _resolve(update: Update, packs: PackFolder, node: Placed) -> list[ObjectId] | None:
    """The ids of a node's children; None if one is nowhere, or the node is damaged."""
    try:
        content = packs.open(node.id).load(node.frame)
    except (DataCorrupt, ChunkMissing):
        return None
    if len(content) != FANOUT * DIGEST_BYTES:
        return None
    level = node.frame.level - 1
    kind = Kind.NODE if level else Kind.CHUNK
    children = []
    for at in range(0, FANOUT * DIGEST_BYTES, DIGEST_BYTES):
        digest = Digest(content[at : at + DIGEST_BYTES])
        number = ObjectId(0) if digest == NULL_DIGEST else update.find(kind, level, digest)
        if number is None:
            return None
        children.append(number)
    return children


def settle_points(update: Update, points: PointFolder, findings: Findings) -> None:
    """Apply unknown manifests, drop forgotten points, and record which points are missing.

    The catalog keeps its copy of the manifest of a missing point: it may be the last one.
    """
    there = points.ids()
    known = set(update.point_ids())
    gone = known - there
    forgotten = gone & points.forgotten_ids() if gone else gone
    findings.missing = frozenset(gone - forgotten)
    for point in forgotten:
        record = update.point(point)
        if record is not None:
            update.drop_point(decode_manifest(record.manifest))
            findings.points_dropped += 1
    for point in there - known:
        try:
            data = points.load_manifest(point)
        except DataCorrupt as exc:
            findings.unreadable.append(str(exc))
            continue
        _put(update, points, decode_manifest(data), data)
        findings.points_added += 1
    if findings.missing != update.missing:
        update.set_missing(findings.missing)
        findings.missing_changed = True
    for point in _changed_states(points, [*update.points()], findings.missing):
        record = update.point(point)
        if record is not None and point not in there - known:
            _put(update, points, decode_manifest(record.manifest), record.manifest)
            findings.states_changed += 1


def doubt_later_points(update: Update) -> None:
    """Record that points later than the newest known one of each VM may have been lost unseen."""
    for vm in update.vms():
        newest = next(update.points_of(vm, newest_first=True), None)
        if newest is not None:
            update.set_unproven(vm, newest[0])


def _put(update: Update, points: PointFolder, manifest: Manifest, data: bytes) -> None:
    state, mark = points.load_state(manifest.point)
    update.put_point(manifest, PointRecord(data, encode_state(state), mark))
