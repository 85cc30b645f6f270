"""Verification of manifests and state files, and comparison with the catalog's copies."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cbtfs.check.report import AffectedDisk, Problem
from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, decode_manifest, unknown_state
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.points import Points

_POLL_SECONDS: Final = 0.1


@dataclass(slots=True)
class PointFindings:
    """All points, and the problems of their files."""

    manifests: list[Manifest] = field(default_factory=list)
    """Manifests from points/, or the catalog's copy if the file is damaged or missing."""
    problems: list[Problem] = field(default_factory=list)


def verify_records(records: DistrustFolder) -> Iterator[Problem]:
    """Verify the distrust records of disks."""
    for disk in records.disks():
        try:
            records.read(disk)
        except DataCorrupt as exc:
            yield Problem("state", f"{exc}; the next ingest reads the disk whole and rewrites it")


def verify_points(points: Points, catalog: Catalog | None) -> PointFindings:
    """Verify the files of every point, and compare them with *catalog* unless it is None."""
    committed = points.ids()  # Before reading the catalog, which gets a point later.
    findings = PointFindings()
    known = _known(catalog, committed, findings, points) if catalog is not None else {}
    for point in sorted(committed | known.keys()):
        copy = known.get(point)
        try:
            data = points.load_manifest(point)
        except PointNotFound:
            if copy is not None and point not in points.forgotten_ids():
                what = (
                    f"the manifest of point {point} ({spec_of(copy)}) is missing: restore it "
                    "from a copy of points/, or run 'cbtfs repair --restore-manifests'"
                )
                findings.problems.append(
                    Problem("manifest", what, ChunkMissing, [*_all_disks(copy)])
                )
                findings.manifests.append(copy)
            continue
        except DataCorrupt as exc:
            places = [] if copy is None else [*_all_disks(copy)]
            findings.problems.append(Problem("manifest", str(exc), places=places))
            if copy is not None:
                findings.manifests.append(copy)
        else:
            manifest = decode_manifest(data)
            findings.manifests.append(manifest)
            if copy is not None and copy != manifest:
                what = f"the catalog has another manifest of point {point} ({spec_of(manifest)})"
                findings.problems.append(Problem("catalog", what, places=[*_all_disks(manifest)]))
        findings.problems += _wrong_state(points, point, copy)
    return findings


def _is_entered(catalog: Catalog, point: PointId, seconds: float) -> bool:
    """Return whether the catalog gets a point within *seconds*: a writer enters it late."""
    due = time.monotonic() + seconds
    while True:
        with catalog.view() as view:
            if view.point_ids(point):
                return True
        if time.monotonic() >= due:
            return False
        time.sleep(_POLL_SECONDS)


def _known(
    catalog: Catalog, committed: set[PointId], findings: PointFindings, points: Points
) -> dict[PointId, Manifest]:
    """Return the catalog's copies of the manifests of all points that it knows."""
    with catalog.view() as view:
        ids = view.point_ids()
    known = {}
    for point in ids:
        try:
            with catalog.view() as view:
                record = view.point(point)
            if record is not None:
                known[point] = decode_manifest(record.manifest)
        except (CatalogDamaged, ValueError) as exc:
            findings.problems.append(Problem("catalog", f"point {point}: {exc}"))
    for point in sorted(committed - set(ids)):
        if not _is_entered(catalog, point, points.entry_seconds):
            findings.problems.append(Problem("catalog", f"point {point} is not in the catalog"))
    return known


def _wrong_state(points: Points, point: PointId, manifest: Manifest | None) -> Iterator[Problem]:
    state, stamp = points.load_state(point)
    if state != unknown_state(point):
        return
    name = point if manifest is None else f"{point} ({spec_of(manifest)})"
    if stamp:
        yield Problem("state", f"the state file of point {name} is damaged")
    else:
        yield Problem("state", f"the state file of point {name} is missing", ChunkMissing)


def spec_of(manifest: Manifest) -> str:
    """Return VM@TIME, the name of a point in commands."""
    return f"{manifest.vm.directory}@{manifest.name}"


def _all_disks(manifest: Manifest) -> Iterator[AffectedDisk]:
    for disk in manifest.disks:
        extents = (Extent(0, disk.size),) if disk.size else ()
        yield AffectedDisk(manifest.point, manifest.vm.name, disk.label, extents, manifest.name)
