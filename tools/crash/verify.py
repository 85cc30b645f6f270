"""Whether a repository still holds what it promised, seen by a child that opens it anew."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cbtfs.check.check import check
from cbtfs.core.ids import PointId
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.repository import CATALOG, reading, writing
from tools.crash.child import Send, Work


class Violation(Exception):
    """A promise of the repository does not hold."""


class Promise(NamedTuple):
    """A point that was acknowledged, or seen."""

    version: int
    manifest: str
    """SHA-256 of its file."""


def promises_hold(
    path: Path,
    promised: Mapping[PointId, Promise | None],
    digests: Sequence[str],
    read: Collection[PointId] | None,
) -> Work:
    """Work that tells all points there are as Promises, or fails with a Violation.

    A point that is *promised* must be there, with the manifest that it had (None: not seen yet).
    Each must be of a version in *digests*; those in *read*, those not seen before, or all if it
    is None, must read like it.
    """

    def look(send: Send) -> None:
        found: dict[PointId, Promise] = {}
        with reading(path) as repository:
            with repository.catalog.view() as view:
                listed = list(points(view))
            reader = Reader(repository)
            for point in listed:
                number = point.manifest.point
                seal = hashlib.sha256(repository.points.load_manifest(number)).hexdigest()
                found[number] = Promise(point.manifest.metadata["version"], seal)
                before = promised.get(number)
                if point.marks or before not in (None, found[number]):
                    raise Violation(f"point {number} has changed: {point.marks}")
                if read is None or number in read or before is None:
                    disk = point.manifest.disks[0]
                    content = reader.disk(disk).read(0, disk.size)
                    if hashlib.sha256(content).hexdigest() != digests[found[number].version]:
                        raise Violation(f"point {number} is not version {found[number].version}")
        lost = promised.keys() - found.keys()
        if lost:
            raise Violation(f"points are lost: {sorted(lost)}")
        send({"points": found})

    return look


def repository_is_sound(path: Path) -> Work:
    """Work that tells the problems of a check of every byte, and how much there was to check."""

    def look(send: Send) -> None:
        report = check(path, read_data=True)
        send({"problems": [p.what for p in report.problems], "chunks": report.chunks_read})

    return look


def catalog_is_as_rebuilt(path: Path) -> Work:
    """Work that fails with a Violation unless a rebuilt catalog says the same."""

    def look(send: Send) -> None:
        with writing(path):
            """Let it catch up."""
        before = _said_by(path)
        (path / CATALOG).rename(path / "catalog.before")
        with writing(path):
            """Let it be rebuilt."""
        after = _said_by(path)
        for what, left, right in zip(("points", "objects", "nodes"), before, after, strict=True):
            if left != right:
                raise Violation(f"{what} differ: {len(left)} before, {len(right)} rebuilt")
        send({"rebuilt": [len(part) for part in after]})

    return look


def _said_by(path: Path) -> tuple[dict[Any, Any], ...]:
    """What a catalog says, without the numbers that it made up."""
    catalog = Catalog(path / CATALOG, is_writable=False)
    try:
        with catalog.view() as view:
            packs = {number: record.id for number, record in view.packs().items()}
            places = dict(view.all_locations())
            digests = {number: place.frame.digest for number, place in places.items()}
            return (
                dict(view.points()),
                {digests[n]: (packs[p.pack], p.frame) for n, p in places.items()},
                {
                    digests[node]: [digests[child] if child else None for child in children]
                    for node, children in view.all_children()
                },
            )
    finally:
        catalog.close()
