"""`cbtfs blame`: the restore point that wrote each extent of a disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, DiskName, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import find_and_say
from cbtfs.cli.report.output import emit_items, print_lines
from cbtfs.core.extent import Extent
from cbtfs.core.units import parse_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.stats.blame import Written


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs blame web01@latest root",
            "cbtfs blame web01@latest root --extent 1G+64M",
            "cbtfs blame web01@latest root --plot ages.svg",
        )
    )(blame)


def blame(
    context: typer.Context,
    point: PointName,
    disk: DiskName,
    extent: Annotated[
        str | None,
        typer.Option(
            metavar="START+LENGTH",
            show_default=False,
            help="Show only this range, in bytes or with a unit: 4096+512, 1G+64M.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Plot the disk to FILE.svg or FILE.png, coloured by age, instead of the list.",
        ),
    ] = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List which restore point wrote each extent of a disk.

    A point wrote an extent if the extent differs from that of the point before. An extent that
    is equal in all points belongs to the first one. Only block maps are read, no data.
    """
    from cbtfs.listing import current_clock, find_disk
    from cbtfs.reader import Reader
    from cbtfs.stats.blame import blame as find_writers
    from cbtfs.stats.blame import versions_of
    from cbtfs.store.repository import reading

    if plot is not None and json:
        raise UsageError("--json and --plot are mutually exclusive: give one")
    area = None if extent is None else _parse_extent(extent)
    clock = current_clock(time_zone)
    with reading(repository_path(context)) as repository:
        of_point = find_and_say(repository, point, clock)
        versions = versions_of(repository, of_point, find_disk(of_point, disk))
        written = find_writers(Reader(repository), versions, area)
        if plot is not None:
            from cbtfs.stats.plot import plot_ages

            plot_ages(versions, written, plot)
        elif json:
            emit_items(map(_document, written))
        else:
            print_lines(map(_line, written))


def _parse_extent(text: str) -> Extent:
    start, plus, length = text.partition("+")
    try:
        if not plus:
            raise ValueError(text)
        return Extent(parse_size(start), parse_size(length))
    except ValueError as exc:
        raise UsageError(
            f"--extent {text!r} is not START+LENGTH: use bytes or a unit, as in 1G+64M"
        ) from exc


def _line(written: Written) -> str:
    extent, state = written.extent, _state(written)
    return f"{extent.start} {extent.length} {state} {written.point.spelled}"


def _document(written: Written) -> Document:
    return {
        "start": written.extent.start,
        "length": written.extent.length,
        "state": _state(written),
        "point": written.point.manifest.point,
        "time": written.point.manifest.time,
    }


def _state(written: Written) -> str:
    return "data" if written.is_data else "zero"
