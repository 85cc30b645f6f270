"""Points of an old catalog, which a rebuild must keep because manifests may be missing."""

from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import decode_manifest
from cbtfs.errors import RepositoryNotFound
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import ORDER, POINTS, CatalogDamaged, PointRecord
from cbtfs.store.catalog.view import POINTS_SCHEMAS, SCHEMA_VERSION, View


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The points of an old catalog."""

    points: dict[PointId, PointRecord]
    """Records whose manifest can be decoded."""
    unproven: dict[VmId, int]
    """Order number of each VM after which points may be unknown."""
    is_complete: bool
    """Whether `points` has every point that was ever committed and not forgotten.

    False if an entry cannot be read, and for an older schema: its programs dropped a point with a
    missing manifest as if it was forgotten.
    """


def salvage(folder: Path) -> Salvaged | None:
    """Return the points that the catalog in *folder* knows; None if it cannot be opened safely."""
    if not (folder / gate.DATA).exists() or gate.verify(folder) is not None:
        return None
    try:
        catalog = Catalog(folder, is_writable=False, schemas=POINTS_SCHEMAS)
    except (RepositoryNotFound, CatalogDamaged):
        return None
    try:
        with catalog.view() as view:
            return _points_of(view)
    except CatalogDamaged:
        return None
    finally:
        catalog.close()


def _points_of(view: View) -> Salvaged:
    points: dict[PointId, PointRecord] = {}
    unproven: dict[VmId, int] = {}
    is_complete = view.schema == SCHEMA_VERSION and view.count(POINTS) == view.count(ORDER)
    for point in view.point_ids():
        try:
            record = view.point(point)
            if record is None:
                continue
            manifest = decode_manifest(record.manifest)
            order = view.unproven_order(manifest.vm.id)
        except (CatalogDamaged, ValueError):
            is_complete = False
            continue
        points[point] = record
        if order >= 0:
            unproven[manifest.vm.id] = order
    return Salvaged(points, unproven, is_complete)
