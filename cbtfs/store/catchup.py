"""Catch-up: brings a catalog in step with packs/ and points/, after a crash or from nothing.

It is one transaction. Its order keeps the rule that an object in the database of digests has its
whole subtree there (docs/architecture.md, "Catching up").
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cbtfs.core.blockmap import FANOUT, Shape
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import DIGEST_BYTES, NULL_DIGEST, Digest, ObjectId, PackId, PointId
from cbtfs.core.manifest import Manifest, decode_manifest, encode_state
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
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
from cbtfs.store.points import Points
from cbtfs.store.quarantine import CorruptFrame, prefer_intact

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Findings:
    """Differences between a catalog and the folders, as catch_up() found and fixed them."""

    packs_added: int = 0
    packs_lost: list[PackId] = field(default_factory=list)
    packs_scanned: list[str] = field(default_factory=list)
    """Errors of the trailers of packs that were read frame by frame."""
    objects_added: int = 0
    objects_moved: int = 0
    objects_dropped: int = 0
    nodes_left_out: int = 0
    """Nodes that are damaged or have an absent child."""
    nodes_mended: int = 0
    """Nodes with a corrupt or absent frame, rewritten from the old catalog."""
    points_added: int = 0
    points_dropped: int = 0
    states_changed: int = 0
    missing: frozenset[PointId] = frozenset()
    """Points of the catalog that have neither a manifest nor a forgotten one."""
    missing_changed: bool = False
    unreadable: list[str] = field(default_factory=list)
    """Errors of manifests that cannot be read."""

    @property
    def changed_objects(self) -> bool:
        return bool(self.packs_added or self.packs_lost or self.objects_added)

    @property
    def is_empty(self) -> bool:
        """Whether the catalog was in step."""
        return not (
            self.changed_objects
            or self.points_added
            or self.points_dropped
            or self.states_changed
            or self.missing_changed
        )


class PackedFrame(NamedTuple):
    """A frame with the number and id of its pack."""

    pack: int
    id: PackId
    frame: Frame


def catch_up(
    catalog: Catalog,
    packs: PackFolder,
    points: Points,
    corrupt: Collection[CorruptFrame] = (),
) -> Findings:
    """Bring *catalog* in step with the folders. Only for the writer.

    Of equal frames it prefers one that is not in *corrupt*.
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
            and not changed_states(points, view.points(), view.missing)
        )
        missing = view.missing
    if in_step:
        return Findings(missing=missing)

    def change(update: Update) -> Findings:
        findings = Findings()
        update.keep_numbers()
        unknown_packs = sorted(present - update.pack_numbers().keys())
        unknown = {pack: packs.frames(pack) for pack in unknown_packs}
        _settle_lost_packs(update, packs, unknown, present, findings)
        add_packs(update, packs, unknown, findings)
        if corrupt and unknown:
            numbers = update.pack_numbers()
            frames = ((numbers[p], p, f) for p, (added, _) in unknown.items() for f in added)
            findings.objects_moved += prefer_intact(update, corrupt, frames)
        if update.is_incomplete or findings.nodes_left_out or findings.objects_dropped:
            _complete(update, packs, present, findings)
        settle_points(update, points, findings)
        if findings.points_added and lacks_maps(update):
            recover_objects(update, packs, present, corrupt, findings)
        if findings.packs_added or findings.points_added:
            doubt_later_points(update)
        if not findings.is_empty:
            update.renew_generation()
        return findings

    findings = catalog.update(change)
    for problem in (*findings.packs_scanned, *findings.unreadable):
        log.warning("%s", problem)
    return findings


def lacks_nothing(view: View, points: Points) -> bool:
    """Return whether the catalog knows every point and has recorded all missing points."""
    known = set(view.point_ids())
    points.trust(known, view.runs)
    present = points.ids()
    gone = known - present
    if not present <= known or gone != view.missing:
        return False
    return not gone or not gone & points.forgotten_ids()


def changed_states(
    points: Points,
    records: Iterable[tuple[PointId, PointRecord]],
    missing: Collection[PointId],
) -> set[PointId]:
    """Return points whose state file is not the one that the catalog copied.

    A missing point keeps its copy if the state file is gone, too.
    """
    stamps = points.state_stamps()
    return {
        point
        for point, record in records
        if stamps.get(point, b"").ljust(24, b"\0") != record.stamp
        and (point in stamps or point not in missing)
    }


Unknown = Mapping[PackId, tuple[list[Frame], str | None]]


def _settle_lost_packs(
    update: Update,
    packs: PackFolder,
    unknown: Unknown,
    present: set[PackId],
    findings: Findings,
) -> None:
    """Move objects of deleted packs to equal frames, or drop them with all nodes above them."""
    numbers = update.pack_numbers()
    lost = {number for pack, number in numbers.items() if pack not in present}
    if not lost:
        return
    findings.packs_lost = sorted(pack for pack in numbers if pack not in present)
    unlocated = {n: location for n, location in update.all_locations() if location.pack in lost}
    wanted: dict[Digest, list[ObjectId]] = {}
    for moving, old in unlocated.items():
        wanted.setdefault(old.frame.digest, []).append(moving)
    for pack, (frames, _) in unknown.items():
        equal = [frame for frame in frames if frame.digest in wanted]
        if equal:
            size = packs.open(pack).size
            number = update.add_pack(pack, size, len(frames), packs.signer(pack))
            for frame in equal:
                _move(update, wanted, unlocated, Location(number, frame), findings)
    for pack, number in numbers.items():
        if wanted and pack in present:
            for frame in packs.frames(pack)[0]:
                _move(update, wanted, unlocated, Location(number, frame), findings)
    dropped = dict(unlocated)
    for node, children in update.all_children():
        if node not in dropped and any(child in dropped for child in children if child):
            location = update.location(node)
            if location is not None:
                dropped[node] = location
    update.drop_objects(dropped.items())
    findings.objects_dropped = len(dropped)
    for number in lost:
        update.drop_pack(number)


def _move(
    update: Update,
    wanted: dict[Digest, list[ObjectId]],
    unlocated: dict[ObjectId, Location],
    location: Location,
    findings: Findings,
) -> None:
    for number in wanted.pop(location.frame.digest, ()):
        update.move_object(number, location)
        del unlocated[number]
        findings.objects_moved += 1


def add_packs(update: Update, packs: PackFolder, unknown: Unknown, findings: Findings) -> None:
    """Add the objects of unknown packs: chunks first, then nodes level by level."""
    numbers = update.pack_numbers()
    nodes: list[PackedFrame] = []
    for pack, (frames, problem) in unknown.items():
        if problem is not None:
            findings.packs_scanned.append(f"{problem}; read frame by frame")
        number = numbers.get(pack)
        if number is None:
            size = packs.open(pack).size
            number = update.add_pack(pack, size, len(frames), packs.signer(pack))
        findings.packs_added += 1
        add_chunks(update, number, frames, findings)
        nodes += (PackedFrame(number, pack, frame) for frame in frames if frame.kind is Kind.NODE)
    findings.nodes_left_out = len(add_nodes(update, packs, nodes, findings))


def add_chunks(update: Update, pack: int, frames: Iterable[Frame], findings: Findings) -> None:
    """Add the unknown chunks of pack number *pack*.

    The chunk of a capture key, which may be junk, is no copy for packs of others: it is another
    object. If a reader wrote or verified this pack, known chunks of capture keys get its location.
    """
    chunks = {frame.digest: frame for frame in frames if frame.kind is Kind.CHUNK}
    signer, unknown = _signer(update, pack), []
    for frame in chunks.values():
        if update.find_counted(frame.kind, frame.level, frame.digest, signer) is None:
            number = None if signer else update.find(frame.kind, frame.level, frame.digest)
            if number is None:
                unknown.append(frame)
            else:
                update.move_object(number, Location(pack, frame))
                findings.objects_moved += 1
    _add(update, pack, [(frame, None) for frame in unknown], findings)


def _signer(update: Update, pack: int) -> bytes:
    record = update.pack(pack)
    return b"" if record is None else record.signer


def _complete(update: Update, packs: PackFolder, present: set[PackId], findings: Findings) -> None:
    """Add nodes that were left out earlier and whose children may be known now."""
    numbers = update.pack_numbers()
    nodes = [
        PackedFrame(numbers[pack], pack, frame)
        for pack in sorted(present)
        for frame in packs.frames(pack)[0]
        if frame.kind is Kind.NODE
    ]
    findings.nodes_left_out = len(add_nodes(update, packs, nodes, findings))
    update.set_incomplete(findings.nodes_left_out > 0)


def lacks_maps(update: Update) -> bool:
    """Return whether the root of any disk is unknown: a known root has a known subtree."""
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
    corrupt: Collection[CorruptFrame],
    findings: Findings,
) -> None:
    """Add the unknown objects of known packs.

    A prune drops the objects of a forgotten point from the catalog, but may keep their packs. If
    the manifest is restored, the objects are still there.
    """
    numbers = update.pack_numbers()
    for pack in sorted(present):
        try:
            frames = packs.frames(pack)[0]
        except (ChunkMissing, DataCorrupt):
            continue
        add_chunks(update, numbers[pack], frames, findings)
        if corrupt:
            prefer_intact(update, corrupt, ((numbers[pack], pack, frame) for frame in frames))
    _complete(update, packs, present, findings)


def add_nodes(
    update: Update, packs: PackFolder, nodes: Iterable[PackedFrame], findings: Findings
) -> set[tuple[int, Digest]]:
    """Add unknown nodes, the lowest level first; return level and digest of those left out."""
    left_out = set()
    for node in sorted(nodes, key=lambda node: node.frame.level):
        frame = node.frame
        signer = _signer(update, node.pack)
        if update.find_counted(frame.kind, frame.level, frame.digest, signer) is not None:
            continue
        children = _resolve(update, packs, node)
        if children is None:
            left_out.add((frame.level, frame.digest))
        else:
            _add(update, node.pack, [(frame, children)], findings)
    return still_left_out(update, left_out)


def still_left_out(update: Update, nodes: Iterable[tuple[int, Digest]]) -> set[tuple[int, Digest]]:
    """Return those of *nodes* that are still unknown: one of several frames is enough."""
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


def _resolve(update: Update, packs: PackFolder, node: PackedFrame) -> list[ObjectId] | None:
    """Return the ids of a node's children; None if a child is absent or the node damaged."""
    try:
        content = packs.open(node.id).load(node.frame)
    except (DataCorrupt, ChunkMissing):
        return None
    if len(content) != FANOUT * DIGEST_BYTES:
        return None
    level, signer = node.frame.level - 1, _signer(update, node.pack)
    kind = Kind.NODE if level else Kind.CHUNK
    children = []
    for at in range(0, FANOUT * DIGEST_BYTES, DIGEST_BYTES):
        digest = Digest(content[at : at + DIGEST_BYTES])
        is_null = digest == NULL_DIGEST
        number = ObjectId(0) if is_null else update.find(kind, level, digest, signer)
        if number is None:
            return None
        children.append(number)
    return children


def settle_points(
    update: Update,
    points: Points,
    findings: Findings,
    looked_at: Collection[PointId] | None = None,
) -> None:
    """Apply unknown manifests, drop forgotten points, and record which points are missing.

    The catalog keeps its copy of the manifest of a missing point: it may be the last one. If other
    programs write to the catalog, *looked_at* are the points that it knew before *points* were
    listed: later ones are not missing.
    """
    present = points.ids()
    known = set(update.point_ids())
    gone = (known if looked_at is None else known.intersection(looked_at)) - present
    forgotten = gone & points.forgotten_ids() if gone else gone
    findings.missing = frozenset(gone - forgotten)
    for point in forgotten:
        record = update.point(point)
        if record is not None:
            update.drop_point(decode_manifest(record.manifest))
            findings.points_dropped += 1
    for point in present - known:
        try:
            data = points.load_manifest(point)
        except DataCorrupt as exc:
            findings.unreadable.append(str(exc))
            continue
        except PointNotFound:
            if looked_at is None:
                raise
            continue  # Another program has removed it since.
        _put(update, points, decode_manifest(data), data)
        findings.points_added += 1
    if findings.missing != update.missing:
        update.set_missing(findings.missing)
        findings.missing_changed = True
    for point in changed_states(points, [*update.points()], findings.missing):
        record = update.point(point)
        if record is not None and point not in present - known:
            _put(update, points, decode_manifest(record.manifest), record.manifest)
            findings.states_changed += 1


def doubt_later_points(update: Update) -> None:
    """Record for each VM that points after its newest known one may be lost without a trace."""
    for vm in update.vms():
        newest = next(update.points_of(vm, newest_first=True), None)
        if newest is not None:
            update.set_unproven(vm, newest[0])


def _put(update: Update, points: Points, manifest: Manifest, data: bytes) -> None:
    state, stamp = points.load_state(manifest.point)
    update.put_point(manifest, PointRecord(data, encode_state(state), stamp))
