"""Manifests and state files against themselves, and the catalog's copies of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cbtfs.check.report import Place, Problem
from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, decode_manifest, unknown_state
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.points import PointFolder


@dataclass(slots=True)
class PointFindings:
    """The points that there are, and what is wrong with their files."""

    manifests: list[Manifest] = field(default_factory=list)
    """As the files have them; as the catalog does where the file is damaged."""
    problems: list[Problem] = field(default_factory=list)


def verify_records(records: DistrustFolder) -> Iterator[Problem]:
    """Look at the records of change lists that lack changes."""
    for disk in records.disks():
        try:
            records.read(disk)
        except DataCorrupt as exc:
            yield Problem("state", f"{exc}; the next ingest reads the disk whole and rewrites it")


def verify_points(points: PointFolder, catalog: Catalog | None) -> PointFindings:
    """Look at the files of every point, and compare with *catalog* if there is one to trust."""
    committed = points.ids()  # before the catalog is asked: a point gets there later
    found = PointFindings()
    known = _known(catalog, committed, found) if catalog is not None else {}
    for point in sorted(committed | known.keys()):
        copy = known.get(point)
        try:
            data = points.load_manifest(point)
        except PointNotFound:
            if copy is not None and point not in points.forgotten_ids():
                what = (
                    f"the manifest of point {point} ({spec_of(copy)}) is missing: put it back "
                    "from a copy of points/, or run 'cbtfs repair --restore-manifests'"
                )
                found.problems.append(Problem("manifest", what, ChunkMissing, [*_all_of(copy)]))
                found.manifests.append(copy)
            continue
        except DataCorrupt as exc:
            places = [] if copy is None else [*_all_of(copy)]
            found.problems.append(Problem("manifest", str(exc), places=places))
            if copy is not None:
                found.manifests.append(copy)
        else:
            manifest = decode_manifest(data)
            found.manifests.append(manifest)
            if copy is not None and copy != manifest:
                what = f"the catalog has another manifest of point {point} ({spec_of(manifest)})"
                found.problems.append(Problem("catalog", what, places=[*_all_of(manifest)]))
        found.problems += _wrong_state(points, point, copy)
    return found


def _known(
    catalog: Catalog, committed: set[PointId], found: PointFindings
) -> dict[PointId, Manifest]:
    """The points that the catalog knows, with its copies of their manifests."""
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
            found.problems.append(Problem("catalog", f"point {point}: {exc}"))
    for point in sorted(committed - set(ids)):
        with catalog.view() as view:
            is_late = view.point_ids(point) != []
        if not is_late:
            found.problems.append(Problem("catalog", f"point {point} is not in the catalog"))
    return known


def _wrong_state(
    points: PointFolder, point: PointId, manifest: Manifest | None
) -> Iterator[Problem]:
    state, mark = points.load_state(point)
    if state != unknown_state(point):
        return
    name = point if manifest is None else f"{point} ({spec_of(manifest)})"
    if mark:
        yield Problem("state", f"the state file of point {name} is damaged")
    else:
        yield Problem("state", f"the state file of point {name} is missing", ChunkMissing)


def spec_of(manifest: Manifest) -> str:
    """VM@TIME, by which commands take the point and users know it."""
    return f"{manifest.vm.directory}@{manifest.name}"


def _all_of(manifest: Manifest) -> Iterator[Place]:
    for disk in manifest.disks:
        extents = (Extent(0, disk.size),) if disk.size else ()
        yield Place(manifest.point, manifest.vm.name, disk.label, extents, manifest.name)
