"""Verification of a repository: points, packs, catalog and block maps."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cbtfs.check.maps import MapCheck
from cbtfs.check.objects import verify_objects
from cbtfs.check.packs import verify_packs
from cbtfs.check.points import spec_of, verify_points, verify_records
from cbtfs.check.report import CheckReport, Problem
from cbtfs.check.subset import ALL, NONE, Subset
from cbtfs.core.ids import PackId
from cbtfs.errors import CbtfsError, DataCorrupt, WrongDirectory
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import DIGESTS, META, ORDER, PACKS, VMS, CatalogDamaged
from cbtfs.store.catalog_opening import CATALOG
from cbtfs.store.directories import check_directories
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.file_indexes import FileIndexes, IndexMissing
from cbtfs.store.packs import PackFolder, open_pack_folder
from cbtfs.store.point_folder import open_point_folder
from cbtfs.store.repository import reading
from cbtfs.store.settings import load_settings

_CHECKSUMMED: Final = (DIGESTS, ORDER, VMS, PACKS, META)
"""Databases of which only the checksums of the entries are verified."""
_ATTEMPTS: Final = 5
"""Verifications of a catalog that changes each time, after which it counts as in use."""

StartProgress = Callable[[int], Callable[[int], None]]
"""Callback with the total of bytes; returns the callback for the bytes read since its last call."""


def _no_progress(_: int) -> Callable[[int], None]:
    return lambda _: None


def check(
    path: Path,
    *,
    read_data: bool,
    subset: Subset | None = None,
    start_progress: StartProgress = _no_progress,
) -> CheckReport:
    """Verify the repository at *path*; with *read_data* also all data of the chunks.

    With *subset* only the chunks of these packs are read. Takes no lock, and leaves out points that
    are committed meanwhile. Unreadable settings raise an error and are not a problem in the report.
    """
    settings = load_settings(path)
    report = CheckReport()
    try:
        check_directories(path, settings.id)
    except WrongDirectory as exc:
        report.problems.append(Problem("directory", str(exc)))
    with (
        _catalog(path, report) as catalog,
        closing(open_pack_folder(path, is_verifying=True)) as packs,
        closing(open_point_folder(path)) as points,
        closing(DistrustFolder(path)) as records,
    ):
        generation = _generation(catalog)
        findings = verify_points(points, catalog)
        manifests = findings.manifests
        report.points = len(manifests)
        report.problems += [*findings.problems, *verify_records(records)]
        manifests.sort(key=lambda manifest: (manifest.vm.name, manifest.vm.id, manifest.order))
        report.verified = {m.point: points.load_state(m.point)[0].verified for m in manifests}
        report.names = {manifest.point: spec_of(manifest) for manifest in manifests}
        chosen = subset or (ALL if read_data else NONE)
        corrupt_frames = _check_packs(packs, chosen, start_progress, report)
        if packs.can_read_content:
            report.problems += _verify_indexes(path)
        if catalog is not None:
            _verify_checksums(catalog, report)
            objects = verify_objects(catalog, packs, corrupt_frames)
            report.objects = objects.count
            report.problems += objects.problems
            maps = MapCheck(catalog, objects.unreadable)
            for manifest in manifests:
                maps.verify(manifest)
            report.problems += maps.problems
            if report.problems and _generation(catalog) != generation:
                raise CbtfsError("the repository was repaired during the check: check it again")
    return report


@contextmanager
def _catalog(path: Path, report: CheckReport) -> Iterator[Catalog | None]:
    """Open the catalog and catch it up; None if its damage might crash LMDB."""
    folder = path / CATALOG
    error = _structural_error(folder)
    if error is None:
        with reading(path) as repository:
            yield repository.catalog
        return
    what = f"{CatalogDamaged(error)}; block maps were not verified"
    report.problems.append(Problem("catalog", what))
    report.are_maps_known = False
    yield None


def _structural_error(folder: Path) -> str | None:
    """Return the error of the catalog's pages, or None. A write at the same time is no error."""
    data = folder / gate.DATA
    for _ in range(_ATTEMPTS if data.exists() else 0):
        before = data.stat().st_mtime_ns
        error = gate.verify(folder)
        if error is None or data.stat().st_mtime_ns == before:
            return error
    return None


def _generation(catalog: Catalog | None) -> bytes:
    if catalog is None:
        return b""
    with catalog.view() as view:
        return view.generation


def _verify_indexes(path: Path) -> Iterator[Problem]:
    """Yield a problem for each damaged index of files: no point depends on it."""
    with FileIndexes(path) as indexes:
        try:
            points = sorted(indexes.ids())
        except DataCorrupt as exc:  # The directory is something else.
            yield Problem("index", str(exc))
            return
        for point in points:
            try:
                indexes.verify(point)
            except IndexMissing:
                continue  # It was removed since.
            except DataCorrupt as exc:
                yield Problem("index", str(exc))


def _size(packs: PackFolder, pack: PackId) -> int:
    try:
        return packs.size(pack)
    except (OSError, DataCorrupt):
        return 0  # Opening the pack reports the error.


def _check_packs(
    packs: PackFolder, subset: Subset, start_progress: StartProgress, report: CheckReport
) -> dict[PackId, dict[int, Problem]]:
    ids = packs.ids()
    sizes = {pack: _size(packs, pack) for pack in ids}
    advance = start_progress(sum(sizes.values()))
    corrupt_frames = {}
    report.unverified = {pack for pack in ids if packs.signer(pack)}
    read = subset.choose(sizes, report.unverified)
    for findings in verify_packs(packs, ids, read):
        if findings.identity:
            report.intact_packs[findings.id] = findings.identity
        report.problems += findings.problems
        report.chunks_read += findings.chunks_read
        report.bytes_read += findings.bytes_read
        if findings.by_offset:
            corrupt_frames[findings.id] = findings.by_offset
            report.corrupt += findings.corrupt
        advance(findings.size)
    return corrupt_frames


def _verify_checksums(catalog: Catalog, report: CheckReport) -> None:
    for database in _CHECKSUMMED:
        with catalog.view() as view:
            damaged = view.count_damaged(database)
        if damaged:
            what = f"{damaged} entries of {database.decode()} fail their checksum"
            report.problems.append(Problem("catalog", f"the catalog is damaged: {what}"))
