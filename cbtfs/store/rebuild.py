"""Rebuild of a catalog from all packs and points, one pack at a time, level by level.

Memory grows with the largest pack and not with the number of packs. The catalog must not be used
before it is complete, so it is built beside the current one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import Digest, PackId
from cbtfs.core.manifest import decode_manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.update import Update
from cbtfs.store.catchup import (
    Findings,
    PackedFrame,
    add_chunks,
    add_nodes,
    doubt_later_points,
    settle_points,
    still_left_out,
)
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import Points
from cbtfs.store.quarantine import CorruptFrame, prefer_intact
from cbtfs.store.salvage import Salvaged

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Callback with the number of bytes of packs read since the last call."""


@dataclass(frozen=True, slots=True)
class RebuildInput:
    """Everything from which a catalog is rebuilt."""

    packs: PackFolder
    points: Points
    corrupt: Collection[CorruptFrame]
    """Quarantined frames, which are used only if there is no equal frame."""
    salvaged: Salvaged | None
    """Points of the previous catalog: those with a missing or damaged manifest stay known."""


def rebuild(catalog: Catalog, source: RebuildInput, progress: Progress) -> Findings:
    """Fill an empty *catalog* from *source*.

    Raises:
        DataCorrupt: a pack cannot be opened. Leaving it out would damage points because of an
            error that may be transient.
    """
    packs, findings = source.packs, Findings()
    numbers: dict[PackId, int] = {}
    levels: defaultdict[int, list[PackId]] = defaultdict(list)
    for pack in sorted(packs.ids() - {*source.points.removed_packs()}):
        try:
            size = packs.open(pack).size
            frames, problem = packs.frames(pack)
        except (DataCorrupt, ChunkMissing) as exc:
            if pack in source.points.removed_packs():
                continue  # A prune has removed it since.
            raise type(exc)(
                f"{exc}; the catalog is unchanged: if this pack is lost, "
                "move it out of packs/ and run repair again"
            ) from exc
        if problem is not None:
            findings.packs_scanned.append(f"{problem}; read frame by frame")
        numbers[pack] = catalog.update(_adding(source, pack, frames, findings))
        findings.packs_added += 1
        for level in {frame.level for frame in frames if frame.kind is Kind.NODE}:
            levels[level].append(pack)
        progress(size)
    left_out = set[tuple[int, Digest]]()
    for level in sorted(levels):
        for pack in levels[level]:
            nodes = [
                PackedFrame(numbers[pack], pack, frame)
                for frame in packs.frames(pack)[0]
                if frame.kind is Kind.NODE and frame.level == level
            ]
            left_out |= catalog.update(_adding_nodes(packs, nodes, findings))
    catalog.update(
        lambda update: _finish(update, source.points, left_out, source.salvaged, findings)
    )
    for problem in (*findings.packs_scanned, *findings.unreadable):
        log.warning("%s", problem)
    return findings


def _adding(
    source: RebuildInput,
    pack: PackId,
    frames: list[Frame],
    findings: Findings,
) -> Callable[[Update], int]:
    def change(update: Update) -> int:
        size, signer = source.packs.open(pack).size, source.packs.signer(pack)
        number = update.add_pack(pack, size, len(frames), signer)
        add_chunks(update, number, frames, findings)
        if source.corrupt:
            prefer_intact(update, source.corrupt, ((number, pack, frame) for frame in frames))
        return number

    return change


def _adding_nodes(
    packs: PackFolder, nodes: list[PackedFrame], findings: Findings
) -> Callable[[Update], set[tuple[int, Digest]]]:
    return lambda update: add_nodes(update, packs, nodes, findings)


def _finish(
    update: Update,
    points: Points,
    left_out: set[tuple[int, Digest]],
    salvaged: Salvaged | None,
    findings: Findings,
) -> None:
    findings.nodes_left_out = len(still_left_out(update, left_out))
    update.set_incomplete(findings.nodes_left_out > 0)
    present = points.ids()
    known = {} if salvaged is None else salvaged.points
    for point in known.keys() - present:
        record = known[point]
        update.put_point(decode_manifest(record.manifest), record)
    settle_points(update, points, findings)
    for point in (known.keys() & present) - {*update.point_ids()}:
        # The manifest is damaged: the catalog's copy may be the last one.
        record = known[point]
        update.put_point(decode_manifest(record.manifest), record)
    if salvaged is None or not salvaged.is_complete or present - known.keys():
        doubt_later_points(update)
    else:
        for vm, order in salvaged.unproven.items():
            update.set_unproven(vm, order)
