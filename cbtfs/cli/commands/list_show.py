"""`cbtfs list` and `cbtfs show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import SHORT_ID
from cbtfs.cli.report.output import emit, print_lines, print_table
from cbtfs.core.filenames import disk_names, view_paths
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.cli.report.slices import SliceReport
    from cbtfs.core.ids import PointId
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

_LIST_HEADER = ("vm", "time", "kind", "disks", "size", "data", "stored", "state", "point")
_LIST_RIGHT = ("disks", "size", "data", "stored")
_OUT_OF_ORDER = "out-of-order"
"""State of a point whose time contradicts the order of capture."""


def add_to(app: typer.Typer) -> None:
    app.command("list", epilog=example("cbtfs list", "cbtfs list --json 'web*'"))(list_points)
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
    json: Json = False,
) -> None:
    """List restore points of each VM in order of capture.

    A point has the state 'out-of-order' if its time contradicts the order of capture: a clock was
    wrong, or an older image was imported. Other states are missing, damaged, suspect and protected.
    """
    from cbtfs.store.repository import reading

    with reading(repository_path(context)) as repository:
        points, misdated = _points(repository, vm)
    if json:
        from cbtfs.cli.report.documents import of_point

        documents = [
            of_point(point, is_out_of_order=point.manifest.point in misdated) for point in points
        ]
        emit({"points": documents})
    else:
        rows = (_row(point, misdated) for point in points)
        print_table(_LIST_HEADER, rows, _LIST_RIGHT)


def _points(repository: Repository, name: str | None) -> tuple[list[Point], set[PointId]]:
    """Return the points in scope, and those whose time contradicts the order of capture."""
    from cbtfs.core.dated import out_of_order
    from cbtfs.listing import labelled, matching, no_vm, points, vm_names

    found: list[Point] = []
    misdated: set[PointId] = set()
    with repository.catalog.view() as view:
        names = vm_names(view)
        bearers = names.bearers if name is None else matching(names, name)
        if name is not None and not bearers:
            raise no_vm(names, name)
        for bearer in sorted(bearers, key=lambda each: (names.labels[each.vm.id], each.vm.id)):
            mine = [labelled(point, names) for point in points(view, bearer.vm.id)]
            misdated |= out_of_order(point.dated for point in mine)
            found += mine
    return found, misdated


def _row(point: Point, misdated: set[PointId]) -> tuple[str, ...]:
    manifest = point.manifest
    disks = manifest.of_kind("disk")
    marks = [*point.marks, *([_OUT_OF_ORDER] if manifest.point in misdated else [])]
    return (
        _vm_column(point),
        manifest.name,
        manifest.kind,
        str(len(disks)),
        format_size(sum(disk.size for disk in disks)),
        format_size(sum(disk.data_bytes for disk in disks)),
        format_size(sum(disk.counts.stored_bytes for disk in manifest.disks)),
        ",".join(marks) or "-",
        manifest.point[:SHORT_ID],
    )


def _vm_column(point: Point) -> str:
    """Return the present name of the VM, and the name at the time of capture if it differs."""
    label, then = point.vm_label, point.manifest.vm.name
    if label is None or label == then or label.startswith(f"{then}~"):
        return label or then
    return f"{label} (was {then})"


def show(
    context: typer.Context, point: PointName, time_zone: TimeZone = LOCAL, json: Json = False
) -> None:
    """Show the details of a restore point and of its disks.

    Slices are partitions and LVM volumes. The mount shows them below the directory of the point.

    If the VM is a pattern, one point of each matching VM is shown.
    """
    from cbtfs.cli.report.slices import slice_report
    from cbtfs.listing import find_points, here_and_now
    from cbtfs.reader import Reader
    from cbtfs.store.repository import reading

    here = here_and_now(time_zone)
    with reading(repository_path(context)) as repository:
        reader = Reader(repository)
        found = [slice_report(reader, each) for each in find_points(repository, point, here)]
    if json:
        from cbtfs.cli.report.documents import of_whole_point

        documents = [of_whole_point(each.point) | each.documents() for each in found]
        emit(documents[0] if len(documents) == 1 else {"points": documents})
    else:
        print_lines(line for each in found for line in _description(each))


def _description(report: SliceReport) -> Iterator[str]:
    point, manifest = report.point, report.point.manifest
    yield f"point      {manifest.point}"
    yield f"vm         {_vm_column(point)}"
    source = "" if manifest.is_clocked else ", as given by --time"
    yield f"time       {manifest.time}{source} (in the mount: {point.directory}/{manifest.name})"
    yield f"kind       {manifest.kind}: {manifest.reason}"
    yield f"state      {', '.join(point.marks) or 'good'}"
    if point.suspect is not None:
        yield f"suspect    {point.suspect}"
    if point.state.tags:
        yield f"tags       {', '.join(point.state.tags)}"
    if point.state.verified is not None:
        yield f"verified   {point.state.verified}"
    yield f"committed  {manifest.committed} by cbtfs {manifest.program}"
    for disk, name in zip(manifest.disks, disk_names(manifest.disks), strict=True):
        if disk.kind == "disk":
            yield from _disk_lines(disk, point.suspect_disk(disk))
            yield f"  images   {', '.join(view_paths(disk, name))}"
    for file in manifest.of_kind("file"):
        yield f"file {file.label}"
        yield f"  size     {file.size} bytes"
        yield f"  stored   {format_size(file.counts.stored_bytes)}"
    yield from report.lines()


def _disk_lines(disk: DiskRecord, suspect: str | None) -> Iterator[str]:
    counts = disk.counts
    yield f"disk {disk.label}"
    yield f"  id       {disk.id}"
    yield f"  size     {disk.size} bytes, {format_size(disk.data_bytes)} of data"
    yield f"  blocks   of {disk.block_size} bytes"
    yield f"  ingest   {disk.ingest}: {disk.reason}"
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
    if suspect is not None:
        yield f"  suspect  {suspect}"


def _audit(audit: Mapping[str, Any]) -> str:
    """Describe an audit record of any version of the program: members may be absent."""
    found = f"{audit.get('blocks')} of {audit.get('of')} unchanged blocks compared"
    return f"{found} ({audit.get('method')}): {audit.get('mismatches')} differ"
