"""`cbtfs stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.meter import Unit
from cbtfs.cli.report.output import emit, print_lines, print_table
from cbtfs.cli.report.progress import progress
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.core.manifest import Manifest
    from cbtfs.core.pointname import ClockContext
    from cbtfs.stats.measure import PointStats, Stats
    from cbtfs.store.repository import Repository

_SHORT_ID = 12
_HEADER = ("vm", "time", "size", "data", "changed", "rate", "stored", "frees", "point")


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs stats", "cbtfs stats web01 --plot web01.svg", "cbtfs stats web01@latest"
        )
    )(stats)


def stats(
    context: typer.Context,
    scope: Annotated[
        str | None,
        typer.Argument(
            metavar="[VM|POINT]",
            show_default=False,
            help="Show only this VM or point, or those that match a pattern such as 'web*'.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Plot change rate and growth over time to FILE.svg or FILE.png.",
        ),
    ] = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Show sizes, change rates, shared data and reclaimable space of restore points.

    The column 'frees' is the space that forgetting that point alone would reclaim at the next
    prune.
    """
    from cbtfs.listing import current_clock
    from cbtfs.stats.measure import stats as measure
    from cbtfs.store.repository import reading

    clock = current_clock(time_zone)
    with reading(repository_path(context)) as repository:
        measured = measure(
            repository,
            _scope(repository, scope, clock),
            lambda what, total: progress(what, total, is_wanted=not json, unit=Unit.SHARE),
        )
    if plot is not None:
        from cbtfs.stats.plot import plot as draw

        draw(measured.rows, plot)
    if json:
        emit(_document(measured))
    else:
        print_table(_HEADER, map(_row, measured.rows), right=_HEADER[2:8])
        print_lines(_totals(measured))


def _scope(
    repository: Repository, name: str | None, clock: ClockContext
) -> Callable[[Manifest], bool]:
    from cbtfs.listing import find_points, find_vms

    if name is None:
        return lambda _: True
    with repository.catalog.view() as view:
        vms = {vm.id for vm in find_vms(view, name)}
    if vms:
        return lambda manifest: manifest.vm.id in vms
    points = {point.manifest.point for point in find_points(repository, name, clock)}
    return lambda manifest: manifest.point in points


def _document(measured: Stats) -> dict[str, Any]:
    return {
        "logical_bytes": measured.logical_bytes,
        "data_bytes": measured.data_bytes,
        "distinct_bytes": measured.distinct_bytes,
        "stored_bytes": measured.stored_bytes,
        "unique_bytes": measured.unique_bytes,
        "shared_bytes": measured.shared_bytes,
        "pack_bytes": measured.pack_bytes,
        "unused_bytes": measured.unused_bytes,
        "deduplication": round(measured.deduplication, 3),
        "compression": round(measured.compression, 3),
        "key_epoch": measured.key_epoch,
        "old_packs": measured.old_packs,
        "old_pack_bytes": measured.old_pack_bytes,
        "points": [_of_row(row) for row in measured.rows],
    }


def _of_row(row: PointStats) -> dict[str, Any]:
    return {
        "id": row.manifest.point,
        "vm": row.manifest.vm.name,
        "time": row.manifest.time,
        "logical_bytes": row.logical_bytes,
        "data_bytes": row.data_bytes,
        "changed_bytes": row.changed_bytes,
        "change_rate": round(row.change_rate, 6),
        "hours": row.hours,
        "stored_bytes": row.stored_bytes,
        "freed_bytes": row.freed_bytes,
    }


def _row(row: PointStats) -> tuple[str, ...]:
    manifest = row.manifest
    return (
        manifest.vm.name,
        manifest.name,
        format_size(row.logical_bytes),
        format_size(row.data_bytes),
        format_size(row.changed_bytes),
        f"{100 * row.change_rate:.1f}%",
        format_size(row.stored_bytes),
        format_size(row.freed_bytes),
        manifest.point[:_SHORT_ID],
    )


def _totals(measured: Stats) -> Iterator[str]:
    logical, data = format_size(measured.logical_bytes), format_size(measured.data_bytes)
    distinct, stored = format_size(measured.distinct_bytes), format_size(measured.stored_bytes)
    yield f"logical     {logical}, {data} of data"
    yield f"distinct    {distinct}: deduplication {measured.deduplication:.2f}"
    yield f"compressed  {stored}: compression {measured.compression:.2f}"
    yield f"unique      {format_size(measured.unique_bytes)} of no other point"
    yield f"shared      {format_size(measured.shared_bytes)} shared with other points"
    yield (
        f"packs       {format_size(measured.pack_bytes)}, "
        f"{format_size(measured.unused_bytes)} unreferenced"
    )
    if measured.old_packs:
        size, epoch = format_size(measured.old_pack_bytes), measured.key_epoch
        yield (
            f"old keys    {size} in {measured.old_packs} packs of key epochs before {epoch}: "
            "run 'cbtfs prune --rekey'"
        )
