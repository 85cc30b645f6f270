"""`cbtfs list` and `cbtfs show`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, PointName, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.output import emit, note, print_lines
from cbtfs.cli.report.points import (
    ListedPoint,
    kind_of,
    list_lines,
    time_in_zone,
    vm_then_and_now,
)
from cbtfs.cli.report.table import terminal_width
from cbtfs.core.filenames import GUEST_FILES, disk_names, view_paths
from cbtfs.core.units import format_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from cbtfs.cli.report.slices import SliceReport
    from cbtfs.core.allocation import Allocation
    from cbtfs.core.ids import PointId
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.core.pointname import ClockContext
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

_OUT_OF_ORDER = "out-of-order"
"""State of a point whose time contradicts the order of capture."""
_BY_VM: Final = "vm"
_TimeZone = Annotated[
    str,
    typer.Option(
        "--time-zone",
        metavar="ZONE",
        help="Time zone of the times that are shown and given, e.g. Europe/Berlin; local: of "
        "this machine.",
    ),
]


def _total(size_of: Callable[[DiskRecord], int]) -> Callable[[Point], int]:
    return lambda point: sum(map(size_of, point.manifest.of_kind("disk")))


_SORT_KEYS: Final[dict[str, Callable[[Point], Any]]] = {
    _BY_VM: lambda point: 0,  # the order in which they are found
    "time": lambda point: point.dated.time,
    "size": _total(lambda disk: disk.size),
    "data": _total(lambda disk: disk.data_bytes),
    "read": _total(lambda disk: disk.counts.read_bytes),
    "stored": lambda point: sum(disk.counts.stored_bytes for disk in point.manifest.disks),
}


def add_to(app: typer.Typer) -> None:
    app.command(
        "list",
        epilog=example(
            "cbtfs list", "cbtfs list --last 3 'web*'", "cbtfs list --since -7d --sort stored"
        ),
    )(list_points)
    app.command("show", epilog=example("cbtfs show web01@latest", "cbtfs show 'web*@-2d'"))(show)


def list_points(
    context: typer.Context,
    vm: Annotated[
        str | None,
        typer.Argument(
            metavar="VM",
            show_default=False,
            help="List only points of this VM, or of VMs that match a pattern such as 'web*'.",
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default=False,
            help="List only the N points of each VM that were captured last.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            show_default=False,
            help="List only points that are not older: -2d, 2026-11-20 or 2026-11-20T14:00.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            show_default=False,
            help="List only points that are not newer than the end of that day or minute.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="Order: vm (then order of capture), time, size, data, read or stored; the newest "
            "or largest last.",
        ),
    ] = _BY_VM,
    time_zone: _TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List restore points of each VM in order of capture.

    'kind' tells how disks were read: completely ('full'), completely and compared with the point
    before ('scan', with the reason), or by a change list ('incremental'). 'read' and 'stored' are
    the bytes that were read and added to the repository. A point has the state 'out-of-order' if
    its time contradicts the order of capture: a clock was wrong, or an older image was imported.
    Other states are missing, damaged, suspect and protected. Columns are omitted if the terminal
    is narrow; names and ids are always whole.
    """
    from cbtfs.listing import current_clock
    from cbtfs.store.repository import reading

    if sort not in _SORT_KEYS:
        raise UsageError(f"unknown --sort {sort!r}: use one of {', '.join(_SORT_KEYS)}")
    clock = current_clock(time_zone)
    period = _bound("--since", since, clock), _bound("--until", until, clock)
    with reading(repository_path(context)) as repository:
        every, misdated = _points(repository, vm)
    points = _newest_of_each_vm([point for point in every if _is_within(point, *period)], last)
    points.sort(key=_SORT_KEYS[sort])
    if json:
        from cbtfs.cli.report.documents import of_point

        documents = [
            of_point(point, is_out_of_order=point.manifest.point in misdated) for point in points
        ]
        emit({"points": documents})
        return
    listed = [ListedPoint(point, _states(point, misdated)) for point in points]
    print_lines(list_lines(listed, clock.zone, terminal_width()))
    if not points:
        note("no restore points" if not every else "no restore points in that period")


def _bound(option: str, text: str | None, clock: ClockContext) -> datetime | None:
    from cbtfs.core.pointname import parse_since, parse_until

    try:
        parse = parse_since if option == "--since" else parse_until
        return None if text is None else parse(text, clock)
    except ValueError as exc:
        raise UsageError(f"invalid {option}: {exc}") from exc


def _is_within(point: Point, first: datetime | None, last: datetime | None) -> bool:
    time = point.dated.time
    return (first is None or first <= time) and (last is None or time <= last)


def _newest_of_each_vm(points: Sequence[Point], count: int | None) -> list[Point]:
    """Return the last *count* points of each VM; *points* are those of each VM in order."""
    if count is None:
        return list(points)
    later = Counter[str]()
    kept = []
    for point in reversed(points):
        later[point.manifest.vm.id] += 1
        if later[point.manifest.vm.id] <= count:
            kept.append(point)
    return kept[::-1]


def _states(point: Point, misdated: set[PointId]) -> list[str]:
    return [*point.marks, *([_OUT_OF_ORDER] if point.manifest.point in misdated else [])]


def _points(repository: Repository, name: str | None) -> tuple[list[Point], set[PointId]]:
    """Return the points in scope, and those whose time contradicts the order of capture."""
    from cbtfs.core.dated import out_of_order
    from cbtfs.listing import labelled, matching, no_vm, points, vm_names

    in_scope: list[Point] = []
    misdated: set[PointId] = set()
    with repository.catalog.view() as view:
        names = vm_names(view)
        named_vms = names.named_vms if name is None else matching(names, name)
        if name is not None and not named_vms:
            raise no_vm(names, name)
        for named in sorted(
            named_vms, key=lambda named_vm: (names.labels[named_vm.vm.id], named_vm.vm.id)
        ):
            mine = [labelled(point, names) for point in points(view, named.vm.id)]
            misdated |= out_of_order(point.dated for point in mine)
            in_scope += mine
    return in_scope, misdated


def show(
    context: typer.Context, point: PointName, time_zone: _TimeZone = LOCAL, json: Json = False
) -> None:
    """Show the details of a restore point and of its disks.

    Slices are partitions and LVM volumes. The mount shows them below the directory of the point.

    If the VM is a pattern, one point of each matching VM is shown.
    """
    from cbtfs.cli.report.slices import slice_report
    from cbtfs.listing import current_clock, find_points
    from cbtfs.reader import Reader
    from cbtfs.store.repository import reading

    clock = current_clock(time_zone)
    with reading(repository_path(context)) as repository:
        reader = Reader(repository)
        reports = [
            slice_report(reader, matched) for matched in find_points(repository, point, clock)
        ]
    if json:
        from cbtfs.cli.report.documents import of_whole_point

        documents = [of_whole_point(report.point) | report.documents() for report in reports]
        emit(documents[0] if len(documents) == 1 else {"points": documents})
    else:
        print_lines(line for report in reports for line in _description(report, clock.zone))


def _description(report: SliceReport, zone: tzinfo) -> Iterator[str]:
    point, manifest = report.point, report.point.manifest
    yield f"point      {manifest.point}"
    yield f"vm         {vm_then_and_now(point)}"
    source = "" if manifest.is_clocked else ", as given by --time"
    time = time_in_zone(manifest.time, zone)
    yield f"time       {time}{source} (in the mount: {point.directory}/{manifest.name})"
    yield f"kind       {kind_of(manifest)}: {manifest.reason}"
    yield f"state      {', '.join(point.marks) or 'good'}"
    if point.suspect is not None:
        yield f"suspect    {point.suspect}"
    if point.state.tags:
        yield f"tags       {', '.join(point.state.tags)}"
    if point.state.verified is not None:
        yield f"verified   {time_in_zone(point.state.verified, zone)}"
    yield from _proof_lines(point, zone)
    yield f"committed  {time_in_zone(manifest.committed, zone)} by {manifest.program}"
    yield f"files      {GUEST_FILES}/ in the mount, and 'cbtfs files'"
    for disk, name in zip(manifest.disks, disk_names(manifest.disks), strict=True):
        if disk.kind == "disk":
            yield from _disk_lines(disk, point.suspect_disk(disk))
            yield f"  images   {', '.join(view_paths(disk, name))}"
    for file in manifest.of_kind("file"):
        yield f"file {file.label}"
        yield f"  size     {file.size} bytes"
        yield f"  stored   {format_size(file.counts.stored_bytes)}"
    yield from report.lines()


def _proof_lines(point: Point, zone: tzinfo) -> Iterator[str]:
    proof = point.state.proof
    if proof is None:
        return
    level = "no level" if proof.level is None else f"level {proof.level}"
    verdict = "" if proof.verdict is None else f", the guest reached {proof.verdict!r}"
    yield f"proof      {level}, {time_in_zone(proof.time, zone)}{verdict}"
    if proof.failure is not None:
        yield f"  failed   {proof.failure}"
    if proof.obstacle is not None:
        yield f"  not done {proof.obstacle}"
    if proof.restore_milliseconds is not None:
        yield f"  restore  all data was read in {proof.restore_milliseconds / 1000:.1f} s"
    for line in proof.notes:
        yield f"  {line}"


def _disk_lines(disk: DiskRecord, suspect: str | None) -> Iterator[str]:
    counts = disk.counts
    yield f"disk {disk.label}"
    yield f"  id       {disk.id}"
    yield f"  size     {disk.size} bytes, {format_size(disk.data_bytes)} of data"
    yield f"  blocks   of {disk.block_size} bytes"
    yield f"  ingest   {disk.method}: {disk.reason}"
    yield (
        f"  read     {format_size(counts.read_bytes)}: {counts.written_blocks} blocks differ, "
        f"{counts.zero_blocks} are zeros"
    )
    yield f"  stored   {format_size(counts.stored_bytes)} for {format_size(counts.new_bytes)} new"
    if disk.parent is not None:
        yield f"  parent   {disk.parent}"
    if disk.change_id is not None:
        yield f"  change   {disk.change_id}"
    if disk.audit is not None:
        yield f"  audit    {_audit(disk.audit)}"
    if disk.allocation is not None:
        yield f"  proven   {_proven(disk.allocation, disk.size)}"
    if suspect is not None:
        yield f"  suspect  {suspect}"


def _audit(audit: Mapping[str, Any]) -> str:
    """Describe an audit record of any version of the program: members may be absent."""
    compared = f"{audit.get('blocks')} of {audit.get('of')} unchanged blocks compared"
    return f"{compared} ({audit.get('method')}): {audit.get('mismatches')} differ"


def _proven(allocation: Allocation, size: int) -> str:
    """Describe how much of a disk was compared with the source."""
    if not allocation.unproven:
        text = "100 %"
    else:
        # Rounded down: 100 % means everything.
        share = int(allocation.proven_share(size) * 1000) / 10
        unread = format_size(allocation.unproven_bytes)
        text = f"{share} %: {unread} never read ({allocation.method})"
    return text if allocation.refused is None else f"{text}; {allocation.refused}"
