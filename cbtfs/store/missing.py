"""Missing points: the catalog knows them, and points/ has neither a manifest nor a forgotten one.

Nobody can tell a removed manifest from one whose file system is not mounted or whose copy is
incomplete. So nothing that a missing point needs is removed until its manifest is written back or
the user gives the point up.
"""

from collections.abc import Collection, Iterable
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import decode_manifest
from cbtfs.core.names import printable
from cbtfs.errors import ManifestsMissing
from cbtfs.store.catalog.view import View
from cbtfs.store.catchup import Findings, settle_points
from cbtfs.store.files import storing
from cbtfs.store.repository import Repository

_NAMED: Final = 8
"""Points that an error names; check lists all."""


def missing_points(repository: Repository) -> frozenset[PointId]:
    """Return the points that are missing just now, whatever the catalog has recorded."""
    with repository.catalog.view() as view:
        known = frozenset(view.point_ids())
    gone = known - repository.points.ids()
    return gone - repository.points.forgotten_ids() if gone else gone


def refuse_missing(repository: Repository) -> None:
    """Raise ManifestsMissing if any point is missing; the message names the points."""
    missing = missing_points(repository)
    if missing:
        raise ManifestsMissing(
            f"points/ lacks the manifests of {len(missing)} restore points: "
            f"{name_points(repository, missing)}; put them back from a copy of points/, or run "
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
    """Write the catalog's copies of the manifests of *points*, which are missing, to points/.

    Where the state file is gone as well, the catalog's copy of it is written first.
    """
    for point in points:
        with repository.catalog.view() as view:
            record = view.point(point)
        if record is not None:
            with storing("the folder of points"):
                repository.points.put_back(point, record.manifest, record.state)
    repository.catalog.update(lambda update: settle_points(update, repository.points, Findings()))
