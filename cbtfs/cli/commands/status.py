"""`cbtfs status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.report.output import emit, print_lines
from cbtfs.core.units import format_size


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs status /mnt/backup"))(status)


def status(
    mountpoint: Annotated[
        Path, typer.Argument(metavar="MNT", show_default=False, help="Mount point of cbtfs.")
    ],
    json: Json = False,
) -> None:
    """Show the status of a mount: points, workers, cache and errors.

    The data is that of MNT/.cbtfs/status.json. Suspect and damaged points are listed.
    """
    from cbtfs.mount.mountpoint import load_status

    document = load_status(mountpoint)
    if json:
        emit(document)
    else:
        print_lines(_lines(document))


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    workers = status["workers"]
    cached = sum(worker["cached_bytes"] for worker in workers)
    yield f"repository  {status['repository']}"
    yield f"mounted     on {status['mountpoint']} since {status['since']}"
    yield f"points      {status['points']} of {status['vms']} VMs, {status['open_points']} open"
    yield f"workers     {len(workers)}, {status['restarts']} replaced"
    yield f"cache       {format_size(cached)}"
    yield f"errors      {status['errors']} reads failed"
    for mark in ("suspect", "damaged"):
        for point in status[mark]:
            is_named = "name" in point  # not by a mount of an earlier version
            name = f"{point['directory']}@{point['name']}" if is_named else point["vm"]
            yield f"{mark.ljust(11)} {name} (point {point['point']})"
