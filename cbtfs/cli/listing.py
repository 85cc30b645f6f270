"""`cbtfs list` and `cbtfs show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.arguments import Json, PointName, example
from cbtfs.cli.context import repository_path
from cbtfs.cli.output import emit, human_size, print_lines, print_table

if TYPE_CHECKING:
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository

_LIST_HEADER = ("vm", "time", "kind", "disks", "size", "data", "stored", "state", "point")
_LIST_RIGHT = ("disks", "size", "data", "stored")
_SHORT_ID = 12
"""Digits of an id that a table shows: enough to be unique in any repository."""


def add_to(app: typer.Typer) -> None:
    app.command("list", epilog=example("cbtfs list", "cbtfs list --json web01"))(list_points)
    app.command("show", epilog=example("cbtfs show web01@latest"))(show)


def list_points(
    context: typer.Context,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="VM", show_default=False, help="Only the points of this VM."),
    ] = None,
    json: Json = False,
) -> None:
    """List restore points, each VM's in the order of their capture."""
    from cbtfs.store.repository import reading

    with reading(repository_path(context)) as repository:
        points = _points(repository, vm)
    if json:
        from cbtfs.cli.documents import of_point

        emit({"points": [of_point(point) for point in points]})
    else:
        print_table(_LIST_HEADER, map(_row, points), _LIST_RIGHT)


def _points(repository: Repository, name: str | None) -> list[Point]:
    from cbtfs.listing import find_vm, find_vms, points

    with repository.catalog.view() as view:
        if name is None:
            vms = list(view.vms().values())
        else:
            vms = find_vms(view, name) or [find_vm(view, name)]
        vms.sort(key=lambda vm: (vm.name, vm.id))
        return [point for vm in vms for point in points(view, vm.id)]


def _row(point: Point) -> tuple[str, ...]:
    manifest = point.manifest
    disks = manifest.of_kind("disk")
    return (
        manifest.vm.name,
        manifest.name,
        manifest.kind,
        str(len(disks)),
        human_size(sum(disk.size for disk in disks)),
        human_size(sum(disk.data_bytes for disk in disks)),
        human_size(sum(disk.counts.stored_bytes for disk in manifest.disks)),
        ",".join(point.marks) or "-",
        manifest.point[:_SHORT_ID],
    )


def show(context: typer.Context, point: PointName, json: Json = False) -> None:
    """Show all that is known of one restore point."""
    from cbtfs.listing import find_point
    from cbtfs.store.repository import reading

    with reading(repository_path(context)) as repository:
        found = find_point(repository, point)
    if json:
        from cbtfs.cli.documents import of_whole_point

        emit(of_whole_point(found))
    else:
        print_lines(_description(found))


def _description(point: Point) -> Iterator[str]:
    manifest = point.manifest
    yield f"point      {manifest.point}"
    yield f"vm         {manifest.vm.name}"
    yield f"time       {manifest.time} (in the mount: {manifest.vm.directory}/{manifest.name})"
    yield f"kind       {manifest.kind}: {manifest.reason}"
    yield f"state      {', '.join(point.marks) or 'good'}"
    if point.suspect is not None:
        yield f"suspect    {point.suspect}"
    if point.state.tags:
        yield f"tags       {', '.join(point.state.tags)}"
    if point.state.verified is not None:
        yield f"verified   {point.state.verified}"
    yield f"committed  {manifest.committed} by cbtfs {manifest.program}"
    for disk in manifest.of_kind("disk"):
        yield from _disk_lines(disk, point.suspect_disk(disk))
    for file in manifest.of_kind("file"):
        yield f"file {file.label}"
        yield f"  size     {file.size} bytes"
        yield f"  stored   {human_size(file.counts.stored_bytes)}"


def _disk_lines(disk: DiskRecord, suspect: str | None) -> Iterator[str]:
    counts = disk.counts
    yield f"disk {disk.label}"
    yield f"  id       {disk.id}"
    yield f"  size     {disk.size} bytes, {human_size(disk.data_bytes)} of data"
    yield f"  blocks   of {disk.block_size} bytes"
    yield f"  ingest   {disk.ingest}: {disk.reason}"
    yield (
        f"  read     {human_size(counts.read_bytes)}: {counts.written_blocks} blocks differ, "
        f"{counts.zero_blocks} are zeros"
    )
    yield f"  stored   {human_size(counts.stored_bytes)} for {human_size(counts.new_bytes)} new"
    if disk.parent is not None:
        yield f"  parent   {disk.parent}"
    if disk.change_id is not None:
        yield f"  change   {disk.change_id}"
    if disk.audit is not None:
        yield f"  audit    {_audit(disk.audit)}"
    if suspect is not None:
        yield f"  suspect  {suspect}"


def _audit(audit: Mapping[str, Any]) -> str:
    """What was compared; by whom it was written nobody knows, so nothing is taken for granted."""
    found = f"{audit.get('blocks')} of {audit.get('of')} unchanged blocks compared"
    return f"{found} ({audit.get('method')}): {audit.get('mismatches')} differ"
