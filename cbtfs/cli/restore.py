"""`cbtfs restore`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cbtfs.cli.arguments import DiskName, Json, PointName, example
from cbtfs.cli.context import repository_path
from cbtfs.cli.output import emit, human_size, print_lines, progress, say
from cbtfs.errors import UsageError


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs restore web01@latest root /var/lib/images/web01.raw",
            "cbtfs restore web01@latest root /dev/vg/web01 --force",
            "cbtfs restore web01@latest root - | ssh other 'cat > /srv/web01.raw'",
        )
    )(restore)


def restore(
    context: typer.Context,
    point: PointName,
    disk: DiskName,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            show_default=False,
            help="A new file, made sparse, or a device; - for standard output, zeros and all.",
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
    """Write one disk of a restore point to a raw file, a block device or a pipe."""
    from cbtfs.cli.documents import of_extent
    from cbtfs.listing import find_disk, find_point
    from cbtfs.restore.disk import explain_loss, restore_disk
    from cbtfs.store.repository import reading

    is_stream = str(target) == "-"
    if is_stream and json:
        raise UsageError("standard output cannot take the disk and a document: leave out --json")
    started = time.monotonic()
    with reading(repository_path(context)) as repository:
        found = find_point(repository, point)
        record = find_disk(found, disk)
        with progress(record.label, record.data_bytes, is_wanted=not json) as advance:
            restored = restore_disk(
                repository,
                found.manifest.point,
                record,
                sys.stdout.fileno() if is_stream else target,
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
        done = f"{record.size} bytes, {human_size(restored.data_bytes)} of data, in {seconds:.1f} s"
        lost = [f"lost: {extent.start} {extent.length}" for extent in restored.lost]
        if is_stream:
            for line in (done, *lost):
                say(line)
        else:
            print_lines([f"{target}: {done}", *lost])
    explain_loss(restored)
