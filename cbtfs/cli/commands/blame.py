"""`cbtfs blame`: the restore point that wrote each extent of a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, DiskName, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import find_and_say
from cbtfs.cli.report.output import emit_items, note, print_lines
from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.core.units import parse_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.reader import Reader
    from cbtfs.stats.blame import Version, Written
    from cbtfs.store.repository import Repository


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs blame web01@latest root",
            "cbtfs blame web01@latest root --extent 1G+64M",
            "cbtfs blame web01@latest root --file /var/lib/app/app.db",
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
    file: Annotated[
        str | None,
        typer.Option(
            metavar="/PATH",
            show_default=False,
            help="Show only the blocks of this file of the guest, in the order of the file.",
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
    """List which restore point wrote each extent of a disk, or of a file on it.

    A point wrote an extent if the extent differs from that of the point before. An extent that
    is equal in all points belongs to the first one. Block maps are read, and no data but that of
    the file system of --file. The first column is then an offset in the file. Points write whole
    blocks of the disk, so a change beside a small file counts as one of the file.
    """
    from cbtfs.listing import current_clock, find_disk
    from cbtfs.reader import Reader
    from cbtfs.stats.blame import blame as find_writers
    from cbtfs.stats.blame import versions_of
    from cbtfs.store.repository import reading

    if plot is not None and json:
        raise UsageError("--json and --plot are mutually exclusive: give one")
    if file is not None and (extent is not None or plot is not None):
        raise UsageError("--file excludes --extent and --plot: give one")
    area = None if extent is None else _parse_extent(extent)
    clock = current_clock(time_zone)
    with reading(repository_path(context)) as repository:
        of_point = find_and_say(repository, point, clock)
        record, reader = find_disk(of_point, disk), Reader(repository)
        versions = versions_of(repository, of_point, record)
        written: Iterable[tuple[int | None, Written]]
        if file is not None:
            written = _of_file(repository, reader, versions, file)
        else:
            written = ((None, item) for item in find_writers(reader, versions, area))
        if plot is not None:
            from cbtfs.stats.plot import plot_ages

            plot_ages(versions, (item for _, item in written), plot)
        elif json:
            emit_items(_document(at, item) for at, item in written)
        else:
            print_lines(_line(at, item) for at, item in written)


def _of_file(
    repository: Repository, reader: Reader, versions: Sequence[Version], path: str
) -> Iterator[tuple[int, Written]]:
    """Yield the writers of the blocks of a file, with their offset in the file."""
    from cbtfs.files.disk_extents import disk_parts
    from cbtfs.files.point import open_files
    from cbtfs.stats.blame import History

    point, disk = versions[-1].point, versions[-1].disk
    elsewhere: dict[str, int] = {}
    with open_files(repository, point.manifest, None) as files:
        parts = disk_parts(files.tree.find(path, follows=True))
        history = History(reader, versions)
        for part in parts:
            if part.disk is None or part.disk.id != disk.id:
                where = _where(part.disk)
                elsewhere[where] = elsewhere.get(where, 0) + part.length
                continue
            for item in history.writers(part.extent):
                yield part.start + item.extent.start - part.offset, item
    for where, length in elsewhere.items():
        note(f"{length} bytes of {printable(path)} {where}")


def _where(disk: DiskRecord | None) -> str:
    if disk is None:
        return "have no known place on a disk"
    return f"are on disk {printable(disk.label)}"


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


def _line(at: int | None, written: Written) -> str:
    extent, state = written.extent, _state(written)
    start = extent.start if at is None else at
    return f"{start} {extent.length} {state} {written.point.spelled}"


def _document(at: int | None, written: Written) -> Document:
    return {
        "start": written.extent.start,
        "length": written.extent.length,
        "file_offset": at,
        "state": _state(written),
        "point": written.point.manifest.point,
        "time": written.point.manifest.time,
    }


def _state(written: Written) -> str:
    return "data" if written.is_data else "zero"
