"""`cbtfs extents` and `cbtfs diff`: where a disk has data, and where two points differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.arguments import DiskName, Json, PointName, example
from cbtfs.cli.context import repository_path
from cbtfs.cli.output import emit_items, print_lines
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.core.extent import Extent
    from cbtfs.reader import Disk


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs extents web01@latest root --json"))(extents)
    app.command(epilog=example("cbtfs diff web01@2026-11-22T00-15-03Z web01@latest root"))(diff)


def extents(context: typer.Context, point: PointName, disk: DiskName, json: Json = False) -> None:
    """List the extents of a disk that hold data and those that are zeros, all of it in order."""
    with _open(context, disk, point) as (image,):
        found = _with_state(image)
        if json:
            emit_items({"start": e.start, "length": e.length, "state": state} for e, state in found)
        else:
            print_lines(f"{e.start} {e.length} {state}" for e, state in found)


def diff(
    context: typer.Context,
    a: Annotated[
        str, typer.Argument(metavar="A", show_default=False, help="A point, named like any.")
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", show_default=False, help="The point to compare with.")
    ],
    disk: DiskName,
    json: Json = False,
) -> None:
    """List the extents in which a disk differs between two points, in whole blocks.

    What one of them has beyond the end of the other differs.
    """
    from cbtfs.cli.documents import of_extent
    from cbtfs.reader import differing

    with _open(context, disk, a, b) as (left, right):
        sizes = left.record.block_size, right.record.block_size
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"the disks have blocks of {sizes[0]} and {sizes[1]} bytes, which cannot be "
                "compared by their block maps: restore both and compare the files"
            )
        found = differing(left, right)
        if json:
            emit_items(map(of_extent, found))
        else:
            print_lines(f"{extent.start} {extent.length}" for extent in found)


@contextmanager
def _open(context: typer.Context, label: str, *names: str) -> Iterator[list[Disk]]:
    """The disk of that label at each of the named points."""
    from cbtfs.listing import find_disk, find_point
    from cbtfs.reader import Reader
    from cbtfs.store.repository import reading

    with reading(repository_path(context)) as repository:
        reader = Reader(repository)
        records = [find_disk(find_point(repository, name), label) for name in names]
        yield [reader.disk(record) for record in records]


def _with_state(image: Disk) -> Iterator[tuple[Extent, str]]:
    """Extents that cover the disk, in order, with what is in them."""
    from cbtfs.core.extent import between

    at = 0
    for extent in image.data():
        for hole in between(at, extent.start):
            yield hole, "zero"
        yield extent, "data"
        at = extent.end
    for hole in between(at, image.size):
        yield hole, "zero"
