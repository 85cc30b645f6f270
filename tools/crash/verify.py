"""Verification of a repository by a child process that opens it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cbtfs.check.check import check
from cbtfs.core.ids import PointId
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog_opening import CATALOG
from cbtfs.store.repository import reading, writing
from tools.crash.child import Send, Work


class Violation(Exception):
    """Raised when a guarantee of the repository does not hold."""


class Promise(NamedTuple):
    """Recorded facts of a point that was acknowledged or listed."""

    version: int
    manifest: str
    """SHA-256 of the manifest file."""


def promises_hold(
    path: Path,
    promised: Mapping[PointId, Promise | None],
    digests: Sequence[str],
    read: Collection[PointId] | None,
) -> Work:
    """Return work that sends all points as Promises, or raises Violation.

    A *promised* point must exist with an unchanged manifest (None: the manifest is not known yet).
    Each point must be of a version in *digests*. The work reads and compares the points in *read*
    (None: all points) and those that are not in *promised*.
    """

    def compare(send: Send) -> None:
        present: dict[PointId, Promise] = {}
        with reading(path) as repository:
            with repository.catalog.view() as view:
                listed = list(points(view))
            reader = Reader(repository)
            for point in listed:
                number = point.manifest.point
                seal = hashlib.sha256(repository.points.load_manifest(number)).hexdigest()
                present[number] = Promise(point.manifest.metadata["version"], seal)
                before = promised.get(number)
                if point.marks or before not in (None, present[number]):
                    raise Violation(f"point {number} has changed: {point.marks}")
                if read is None or number in read or before is None:
                    disk = point.manifest.disks[0]
                    content = reader.disk(disk).read(0, disk.size)
                    if hashlib.sha256(content).hexdigest() != digests[present[number].version]:
                        version = present[number].version
                        raise Violation(f"point {number} is not version {version}")
        lost = promised.keys() - present.keys()
        if lost:
            raise Violation(f"points are lost: {sorted(lost)}")
        send({"points": present})

    return compare


def repository_is_sound(path: Path) -> Work:
    """Return work that sends the problems of a check of all data and the number of chunks."""

    def check_all(send: Send) -> None:
        report = check(path, read_data=True)
        send({"problems": [p.what for p in report.problems], "chunks": report.chunks_read})

    return check_all


def catalog_is_as_rebuilt(path: Path) -> Work:
    """Return work that raises Violation unless a rebuilt catalog has the same content."""

    def rebuild(send: Send) -> None:
        with writing(path):
            pass  # update the catalog
        before = _content_of(path)
        (path / CATALOG).rename(path / "catalog.before")
        with writing(path):
            pass  # rebuild the catalog
        after = _content_of(path)
        for table, left, right in zip(("points", "objects", "nodes"), before, after, strict=True):
            if left != right:
                raise Violation(f"{table} differ: {len(left)} before, {len(right)} rebuilt")
        send({"rebuilt": [len(part) for part in after]})

    return rebuild


def _content_of(path: Path) -> tuple[dict[Any, Any], ...]:
    """Return points, locations and children of a catalog, without its internal numbers."""
    catalog = Catalog(path / CATALOG, is_writable=False)
    try:
        with catalog.view() as view:
            packs = {number: record.id for number, record in view.packs().items()}
            locations = dict(view.all_locations())
            digests = {number: location.frame.digest for number, location in locations.items()}
            return (
                dict(view.points()),
                {digests[n]: (packs[loc.pack], loc.frame) for n, loc in locations.items()},
                {
                    digests[node]: [digests[child] if child else None for child in children]
                    for node, children in view.all_children()
                },
            )
    finally:
        catalog.close()
