"""`cbtfs restore`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cbtfs.cli.arguments import DiskName, Json, PointName, example
from cbtfs.cli.context import repository_path
from cbtfs.cli.output import emit, human_size, print_lines, progress


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs restore web01@latest root /var/lib/images/web01.raw",
            "cbtfs restore web01@latest root /dev/vg/web01 --force",
        )
    )(restore)


def restore(
    context: typer.Context,
    point: PointName,
    disk: DiskName,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET", show_default=False, help="A new file, made sparse, or a device."
        ),
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite the file, or the first bytes of the device."),
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Restore what can be had: damaged extents become zeros and are listed; "
            "exits with 20 or 21 all the same.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Write one disk of a restore point to a raw file or a block device."""
    from cbtfs.cli.documents import of_extent
    from cbtfs.listing import find_disk, find_point
    from cbtfs.restore.disk import explain_loss, restore_disk
    from cbtfs.store.repository import reading

    started = time.monotonic()
    with reading(repository_path(context)) as repository:
        found = find_point(repository, point)
        record = find_disk(found, disk)
        with progress(record.label, record.data_bytes, is_wanted=not json) as advance:
            restored = restore_disk(
                repository,
                found.manifest.point,
                record,
                target,
                may_overwrite=force,
                keeps_going=keep_going,
                advance=advance,
            )
    seconds = time.monotonic() - started
    if json:
        emit(
            {
                "point": found.manifest.point,
                "disk": record.label,
                "target": str(target.absolute()),
                "size": record.size,
                "data_bytes": restored.data_bytes,
                "lost": [of_extent(extent) for extent in restored.lost],
                "seconds": round(seconds, 3),
            }
        )
    else:
        print_lines(
            [
                f"{target}: {record.size} bytes, {human_size(restored.data_bytes)} of data, "
                f"in {seconds:.1f} s",
                *(f"lost: {extent.start} {extent.length}" for extent in restored.lost),
            ]
        )
    explain_loss(restored)
