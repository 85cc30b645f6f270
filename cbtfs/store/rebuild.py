"""A catalog from nothing: all that packs and points hold, a pack at a time, level by level.

Memory goes with the largest pack, whatever the number of packs. Nobody may look at the catalog
before it is whole: it is made beside the one that is in use.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection

from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, PackId
from cbtfs.core.manifest import decode_manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.update import Update
from cbtfs.store.catchup import (
    Findings,
    Placed,
    add_chunks,
    add_nodes,
    doubt_later_points,
    settle_points,
    still_left_out,
)
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder
from cbtfs.store.quarantine import BadPlace, prefer_good
from cbtfs.store.salvage import Salvaged

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Told how many bytes of packs more have been gone through."""


def rebuild(
    catalog: Catalog,
    packs: PackFolder,
    points: PointFolder,
    bad: Collection[BadPlace] = (),
    progress: Progress = lambda _: None,
    salvaged: Salvaged | None = None,
) -> Findings:
    """Fill an empty *catalog*. Of like frames one that is not in *bad* is taken.

    *salvaged* are the points that the catalog before it knew: those whose manifests are missing
    from points/, or are damaged there, stay known.

    DataCorrupt if a pack cannot be opened at all: without it points would be damaged that may
    only have met a moment's trouble of the disk.
    """
    findings = Findings()
    numbers: dict[PackId, int] = {}
    levels: defaultdict[int, list[PackId]] = defaultdict(list)
    for pack in sorted(packs.ids()):
        try:
            size = packs.open(pack).size
            frames, problem = packs.frames(pack)
        except (DataCorrupt, ChunkMissing) as exc:
            raise type(exc)(
                f"{exc}; the catalog is as it was: where that pack is lost for good, "
                "move it out of packs/ and run repair again"
            ) from exc
        if problem is not None:
            findings.packs_scanned.append(f"{problem}; read frame by frame")
        numbers[pack] = catalog.update(_adding(pack, size, frames, bad, findings))
        findings.packs_added += 1
        for level in {frame.level for frame in frames if frame.kind is Kind.NODE}:
            levels[level].append(pack)
        progress(size)
    left_out = set[tuple[int, Digest]]()
    for level in sorted(levels):
        for pack in levels[level]:
            nodes = [
                Placed(numbers[pack], pack, frame)
                for frame in packs.frames(pack)[0]
                if frame.kind is Kind.NODE and frame.level == level
            ]
            left_out |= catalog.update(_adding_nodes(packs, nodes, findings))
    catalog.update(lambda update: _finish(update, points, left_out, salvaged, findings))
    for problem in (*findings.packs_scanned, *findings.unreadable):
        log.warning("%s", problem)
    return findings


def _adding(
    pack: PackId,
    size: int,
    frames: list[Frame],
    bad: Collection[BadPlace],
    findings: Findings,
) -> Callable[[Update], int]:
    def change(update: Update) -> int:
        number = update.add_pack(pack, size, len(frames))
        add_chunks(update, number, frames, findings)
        if bad:
            prefer_good(update, bad, ((number, pack, frame) for frame in frames))
        return number

    return change


def _adding_nodes(
    packs: PackFolder, nodes: list[Placed], findings: Findings
) -> Callable[[Update], set[tuple[int, Digest]]]:
    return lambda update: add_nodes(update, packs, nodes, findings)


def _finish(
    update: Update,
    points: PointFolder,
    left_out: set[tuple[int, Digest]],
    salvaged: Salvaged | None,
    findings: Findings,
) -> None:
    findings.nodes_left_out = len(still_left_out(update, left_out))
    update.set_incomplete(findings.nodes_left_out > 0)
    there = points.ids()
    known = {} if salvaged is None else salvaged.points
    for point in known.keys() - there:
        record = known[point]
        update.put_point(decode_manifest(record.manifest), record)
    settle_points(update, points, findings)
    for point in (known.keys() & there) - {*update.point_ids()}:
        # Its file is damaged: the copy may be the last one, and is kept as without a rebuild.
        record = known[point]
        update.put_point(decode_manifest(record.manifest), record)
    if salvaged is None or not salvaged.is_complete or there - known.keys():
        doubt_later_points(update)
    else:
        for vm, order in salvaged.unproven.items():
            update.set_unproven(vm, order)
