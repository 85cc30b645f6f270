"""`cbtfs files find --in`: a search in the indexes of many points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import AUTO
from cbtfs.cli.report.output import emit_items, note, print_table, say
from cbtfs.errors import ExitCode, PointNotFound, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.pointname import ClockContext
    from cbtfs.files.index.search import Found, Searched
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

_NAMED: Final = 5
"""Points without an index that are named."""


@dataclass(frozen=True, slots=True)
class _OfVm:
    """The points of a VM that were searched, from the oldest, and the result."""

    label: str
    points: Sequence[Point]
    searched: Searched


def search(
    context: typer.Context,
    vms: Sequence[str],
    since: str | None,
    pattern: str | None,
    *,
    engine: str,
    time_zone: str,
    json: bool,
) -> None:
    """Print the versions of the files whose names match a pattern, at all points of some VMs."""
    from cbtfs.files.index.search import search as search_indexes
    from cbtfs.listing import current_clock
    from cbtfs.store.file_indexes import FileIndexes
    from cbtfs.store.repository import reading

    path = readable_path(context)
    wanted = None if engine == AUTO else engine
    results = []
    with reading(path) as repository, FileIndexes(path) as indexes:
        found = _points(repository, vms, since, current_clock(time_zone))
        for label, points in found.items():
            ids = [point.manifest.point for point in points]
            searched = search_indexes(indexes, ids, pattern, wanted)
            results.append(_OfVm(label, points, searched))
    count = sum(len(result.points) for result in results)
    used = sorted({e for r in results for item in r.searched.found for e in item.engines})
    note(", ".join([f"{count} points of {len(results)} VMs", *(f"engine {e}" for e in used)]))
    if json:
        emit_items(_document(result, item) for result in results for item in result.searched.found)
    else:
        header = ["vm", "mode", "size", "modified", "first", "last", "points", "path"]
        rows = [_row(result, item) for result in results for item in result.searched.found]
        print_table(header, rows, ["size", "points"])
    _conclude(results)


def _points(
    repository: Repository, vms: Sequence[str], since: str | None, clock: ClockContext
) -> dict[str, list[Point]]:
    """Return the points of the named VMs, from the oldest, by the present names of the VMs."""
    from cbtfs.core.moment import parse_moment
    from cbtfs.core.pointname import parse_since
    from cbtfs.listing import find_vms, labelled, points, vm_names
    from cbtfs.listing.vm import no_vm

    try:
        start = None if since is None else parse_since(since, clock)
    except ValueError as exc:
        raise UsageError(f"invalid --since: {exc}") from exc
    found: dict[str, list[Point]] = {}
    with repository.catalog.view() as view:
        names = vm_names(view)
        for name in vms:
            matching = find_vms(view, name)
            if not matching:
                raise no_vm(names, name)
            for vm in matching:
                of_vm = [labelled(point, names) for point in points(view, vm.id)]
                wanted = [
                    point
                    for point in of_vm
                    if not point.is_missing
                    and (start is None or parse_moment(point.manifest.time) >= start)
                ]
                if wanted:
                    found[wanted[-1].vm_label or vm.name] = wanted
    if not found:
        raise PointNotFound(f"no point is as new as --since {since}")
    return found


def _row(result: _OfVm, found: Found) -> list[str]:
    from cbtfs.cli.report.guest_files import format_mode, format_time
    from cbtfs.files.protocol import KIND_OF_MODE, Entry, Kind

    version = found.version
    kind = KIND_OF_MODE.get(version.mode & 0o170000, Kind.UNKNOWN)
    entry = Entry("", kind, version.inode, version.mode & 0o7777)
    return [
        result.label,
        format_mode(entry),
        str(version.size),
        format_time(version.modified // 1_000_000_000 * 1_000_000_000) or "?",
        result.points[found.first].manifest.name,
        result.points[found.last].manifest.name,
        str(found.points),
        version.path,
    ]


def _document(result: _OfVm, found: Found) -> Document:
    from cbtfs.cli.report.guest_files import format_time
    from cbtfs.files.protocol import KIND_OF_MODE, Kind

    version = found.version
    first, last = (result.points[number].manifest for number in (found.first, found.last))
    return {
        "vm": result.label,
        "path": version.path,
        "type": KIND_OF_MODE.get(version.mode & 0o170000, Kind.UNKNOWN).value,
        "mode": f"{version.mode & 0o7777:04o}",
        "size": version.size,
        "inode": version.inode,
        "modified": format_time(version.modified),
        "first": first.point,
        "last": last.point,
        "first_name": first.name,
        "last_name": last.name,
        "points": found.points,
        "engines": sorted(found.engines),
    }


def _conclude(results: Sequence[_OfVm]) -> None:
    """Name the points that could not be searched completely, and exit with 3 if there are any."""
    from cbtfs.store.file_indexes import IndexMissing

    is_partial = False
    for result in results:
        names = {point.manifest.point: point.spelled for point in result.points}
        missing = [point for point, e in result.searched.unindexed if isinstance(e, IndexMissing)]
        if missing:
            listed = ", ".join(names[point] for point in missing[:_NAMED])
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            say(f"not searched: {listed}{more}: no index; run 'cbtfs files index --due'")
        for point, error in result.searched.unindexed:
            if not isinstance(error, IndexMissing):
                say(f"not searched: {names[point]}: {error}")
        if result.searched.incomplete:
            point, count = result.searched.incomplete[-1]
            say(
                f"{len(result.searched.incomplete)} points of {result.label} were searched in "
                f"part: the index of {names[point]} leaves out {count} directories or volumes"
            )
        is_partial |= bool(result.searched.unindexed or result.searched.incomplete)
    if is_partial:
        raise typer.Exit(ExitCode.PARTIAL)
