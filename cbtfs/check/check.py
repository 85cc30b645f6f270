"""Check a repository: packs, catalog, points and block maps, in this order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs.check.maps import MapCheck
from cbtfs.check.objects import verify_objects
from cbtfs.check.packs import verify_packs
from cbtfs.check.points import spec_of, verify_points, verify_records
from cbtfs.check.report import Problem, Report
from cbtfs.check.subset import ALL, NONE, Subset
from cbtfs.core.ids import PackId
from cbtfs.errors import CbtfsError, DataCorrupt, WrongDirectory
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import DIGESTS, META, ORDER, PACKS, VMS, CatalogDamaged
from cbtfs.store.directories import look_at_directories
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder
from cbtfs.store.repository import CATALOG, reading
from cbtfs.store.settings import load_settings

_SWEPT: Final = (DIGESTS, ORDER, VMS, PACKS, META)
"""Databases whose entries nothing else here looks at one by one."""
_LOOKS: Final = 5
"""A catalog that changes under each of so many looks is in use, not broken."""

Announce = Callable[[int], Callable[[int], None]]
"""Told how many bytes there are to look at; returns what is told how many more are done."""


def _in_silence(_: int) -> Callable[[int], None]:
    return lambda _: None


def check(
    path: Path,
    *,
    read_data: bool,
    subset: Subset | None = None,
    announce: Announce = _in_silence,
) -> Report:
    """Prove that the repository at *path* holds what it says; with *read_data* to the last byte.

    With *subset* the chunks of only so many packs are read.

    Nothing is locked: points that come while it runs are left out. A repository whose settings
    cannot be read is an error, not a problem.
    """
    settings = load_settings(path)
    report = Report()
    try:
        look_at_directories(path, settings.id)
    except WrongDirectory as exc:
        report.problems.append(Problem("directory", str(exc)))
    with _catalog(path, report) as catalog:
        packs, points = PackFolder(path / "packs"), PointFolder(path / "points")
        generation = _generation(catalog)
        found = verify_points(points, catalog)
        report.points = len(found.manifests)
        report.problems += [*found.problems, *verify_records(DistrustFolder(path))]
        found.manifests.sort(key=lambda each: (each.vm.name, each.vm.id, each.order))
        report.verified = {
            each.point: points.load_state(each.point)[0].verified for each in found.manifests
        }
        report.names = {each.point: spec_of(each) for each in found.manifests}
        chosen = subset or (ALL if read_data else NONE)
        bad_frames = _check_packs(packs, chosen, announce, report)
        if catalog is not None:
            _sweep(catalog, report)
            objects = verify_objects(catalog, packs, bad_frames)
            report.objects = objects.count
            report.problems += objects.problems
            maps = MapCheck(catalog, objects.bad)
            for manifest in found.manifests:
                maps.look_at(manifest)
            report.problems += maps.problems
            if report.problems and _generation(catalog) != generation:
                raise CbtfsError("the repository was mended while it was checked: check it again")
    return report


@contextmanager
def _catalog(path: Path, report: Report) -> Iterator[Catalog | None]:
    """The catalog, brought up to date; None if its structure is such that LMDB may crash on it."""
    folder = path / CATALOG
    trouble = _structure(folder)
    if trouble is None:
        with reading(path) as repository:
            yield repository.catalog
        return
    what = f"{CatalogDamaged(trouble)}; block maps were not looked at"
    report.problems.append(Problem("catalog", what))
    report.are_maps_known = False
    yield None


def _structure(folder: Path) -> str | None:
    """What is wrong with the catalog's pages; a writer that is at work must not look like it."""
    data = folder / gate.DATA
    for _ in range(_LOOKS if data.exists() else 0):
        before = data.stat().st_mtime_ns
        trouble = gate.verify(folder)
        if trouble is None or data.stat().st_mtime_ns == before:
            return trouble
    return None


def _generation(catalog: Catalog | None) -> bytes:
    if catalog is None:
        return b""
    with catalog.view() as view:
        return view.generation


def _size(packs: PackFolder, pack: PackId) -> int:
    try:
        return packs.size(pack)
    except (OSError, DataCorrupt):
        return 0  # what is wrong with it is found out when it is opened


def _check_packs(
    packs: PackFolder, subset: Subset, announce: Announce, report: Report
) -> dict[PackId, dict[int, Problem]]:
    ids = packs.ids()
    sizes = {pack: _size(packs, pack) for pack in ids}
    advance = announce(sum(sizes.values()))
    bad_frames = {}
    for found in verify_packs(packs, ids, subset.choose(sizes)):
        report.problems += found.problems
        report.chunks_read += found.chunks_read
        report.bytes_read += found.bytes_read
        if found.bad:
            bad_frames[found.id] = found.bad
            report.bad += found.places
        advance(found.size)
    return bad_frames


def _sweep(catalog: Catalog, report: Report) -> None:
    for database in _SWEPT:
        with catalog.view() as view:
            damaged = view.count_damaged(database)
        if damaged:
            what = f"{damaged} entries of {database.decode()} fail their checksum"
            report.problems.append(Problem("catalog", f"the catalog is damaged: {what}"))
