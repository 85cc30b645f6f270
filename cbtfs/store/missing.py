"""Missing points: the catalog knows them, and points/ has neither a manifest nor a forgotten one.

A removed manifest, an unmounted file system and an incomplete copy look the same. So cbtfs removes
no object of a missing point until its manifest is restored or the user gives up the point.
"""

from collections.abc import Collection, Iterable
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import decode_manifest, decode_state
from cbtfs.core.names import printable
from cbtfs.errors import ManifestsMissing
from cbtfs.store.catalog.view import View
from cbtfs.store.catchup import Findings, settle_points
from cbtfs.store.repository import Repository
from cbtfs.store.storing import storing

_NAMED: Final = 8
"""Maximum number of points in an error message; check lists all."""


def missing_points(repository: Repository) -> frozenset[PointId]:
    """Return the points that are missing now, independent of the record in the catalog."""
    with repository.catalog.view() as view:
        known = frozenset(view.point_ids())
    gone = known - repository.points.ids()
    return gone - repository.points.forgotten_ids() if gone else gone


def refuse_missing(repository: Repository) -> None:
    """Raise ManifestsMissing, which names the points, if any point is missing."""
    missing = missing_points(repository)
    if missing:
        raise ManifestsMissing(
            f"points/ lacks the manifests of {len(missing)} restore points: "
            f"{name_points(repository, missing)}; restore them from a copy of points/, or run "
            "'cbtfs repair --restore-manifests'"
        )


def name_points(repository: Repository, points: Collection[PointId]) -> str:
    """Return id, VM and time of the first of *points*, for a message."""
    with repository.catalog.view() as view:
        names = [_name_of(view, point) for point in sorted(points)[:_NAMED]]
    more = f" and {len(points) - _NAMED} more" if len(points) > _NAMED else ""
    return ", ".join(names) + more


def _name_of(view: View, point: PointId) -> str:
    record = view.point(point)
    if record is None:
        return point
    manifest = decode_manifest(record.manifest)
    return f"{point} ({printable(manifest.vm.name)} {printable(manifest.name)})"


def give_up(repository: Repository, points: Collection[PointId]) -> None:
    """Forget *points*, which are missing: the catalog's copies become their forgotten manifests."""
    for point in points:
        with repository.catalog.view() as view:
            record = view.point(point)
        if record is not None:
            with storing("the folder of points"):
                repository.points.put_forgotten(point, record.manifest)
    repository.drop_forgotten(points)


def put_back(repository: Repository, points: Iterable[PointId]) -> None:
    """Write the catalog's copies of the manifests of the missing *points* to points/.

    A missing state file is written first, also from the catalog's copy.
    """
    for point in points:
        with repository.catalog.view() as view:
            record = view.point(point)
        if record is None:
            continue
        if repository.shared is not None:
            state = decode_state(record.state, point)
            repository.put_point(decode_manifest(record.manifest), record.manifest, state)
            continue
        with storing("the folder of points"):
            repository.point_files.put_back(point, record.manifest, record.state)
    repository.catalog.update(lambda update: settle_points(update, repository.points, Findings()))
