"""`cbtfs extents` and `cbtfs diff`: extents of a disk, and differences between two points."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, DiskName, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import find_and_say
from cbtfs.cli.report.output import emit_items, print_lines
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.extent import Extent
    from cbtfs.reader import Disk


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs extents web01@latest root --json"))(extents)
    app.command(epilog=example("cbtfs diff web01@2026-11-22T00-15-03Z web01@latest root"))(diff)


class Shape(enum.StrEnum):
    """Output formats of extents."""

    PLAIN = "plain"
    NBD = "nbd"
    QEMU = "qemu"


Format = Annotated[
    Shape | None,
    typer.Option(
        "--format",
        show_default="plain",
        help="Output format: plain columns; nbd, as of 'nbdinfo --map --json'; qemu, as of "
        "'qemu-img map --output=json'.",
    ),
]


def extents(
    context: typer.Context,
    point: PointName,
    disk: DiskName,
    shape: Format = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List the data and zero extents of a disk.

    The extents cover the whole disk in ascending order. Only the block map is read, no data.
    """
    _refuse_two(shape, json)
    with _open(context, time_zone, disk, point) as (image,):
        covering = _covering(image.data(), image.size)
        if json:
            states = {True: "data", False: "zero"}
            emit_items(
                {"start": e.start, "length": e.length, "state": states[is_data]}
                for e, is_data in covering
            )
        elif shape is Shape.NBD:
            emit_items(
                _as_nbd(e, *((0, "data") if is_data else (3, "hole,zero")))
                for e, is_data in covering
            )
        elif shape is Shape.QEMU:
            emit_items(_as_qemu(e, data=is_data, zero=not is_data) for e, is_data in covering)
        else:
            print_lines(
                f"{e.start} {e.length} {'data' if is_data else 'zero'}" for e, is_data in covering
            )


def diff(
    context: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", show_default=False, help="Point to compare, named as in other commands."
        ),
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", show_default=False, help="Point to compare with.")
    ],
    disk: DiskName,
    shape: Format = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List the extents of a disk that differ between two points.

    Extents are whole blocks; only block maps are read. If the sizes differ, the end of the larger
    disk counts as different. The formats nbd and qemu cover the whole disk: extents that differ are
    dirty (nbd) or data (qemu).
    """
    _refuse_two(shape, json)
    from cbtfs.cli.report.documents import of_extent
    from cbtfs.difference import differing

    with _open(context, time_zone, disk, a, b) as (left, right):
        sizes = left.record.block_size, right.record.block_size
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"cannot compare disks with blocks of {sizes[0]} and {sizes[1]} bytes: their block "
                "maps differ in unit; restore both and compare the files"
            )
        differences = differing(left, right)
        if json:
            emit_items(map(of_extent, differences))
        elif shape in (Shape.NBD, Shape.QEMU):
            covering = _covering(differences, max(left.size, right.size))
            if shape is Shape.NBD:
                emit_items(
                    _as_nbd(e, *((1, "dirty") if is_dirty else (0, "clean")))
                    for e, is_dirty in covering
                )
            else:
                emit_items(_as_qemu(e, data=is_dirty, zero=False) for e, is_dirty in covering)
        else:
            print_lines(f"{extent.start} {extent.length}" for extent in differences)


def _refuse_two(shape: Shape | None, json: bool) -> None:
    if shape is not None and json:
        raise UsageError("--json and --format are mutually exclusive: give one")


@contextmanager
def _open(context: typer.Context, time_zone: str, label: str, *names: str) -> Iterator[list[Disk]]:
    """Open the disk with that label in each of the named points."""
    from cbtfs.listing import current_clock, find_disk
    from cbtfs.reader import Reader
    from cbtfs.store.repository import reading

    clock = current_clock(time_zone)
    with reading(repository_path(context)) as repository:
        reader = Reader(repository)
        records = [find_disk(find_and_say(repository, name, clock), label) for name in names]
        yield [reader.disk(record) for record in records]


def _covering(some: Iterable[Extent], size: int) -> Iterator[tuple[Extent, bool]]:
    """Extents that cover [0, size), in order, each with whether it is one of *some*."""
    from cbtfs.core.extent import between

    at = 0
    for extent in some:
        for hole in between(at, extent.start):
            yield hole, False
        yield extent, True
        at = extent.end
    for hole in between(at, size):
        yield hole, False


def _as_nbd(extent: Extent, number: int, words: str) -> Document:
    return {"offset": extent.start, "length": extent.length, "type": number, "description": words}


def _as_qemu(extent: Extent, *, data: bool, zero: bool) -> Document:
    """An item of qemu-img(1), which says the same of the raw file in the mount."""
    return {
        "start": extent.start,
        "length": extent.length,
        "depth": 0,
        "present": True,
        "zero": zero,
        "data": data,
        "offset": extent.start,
    }
