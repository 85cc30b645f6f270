"""`cbtfs export`: the disks of a restore point as NBD exports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.output import emit, note, print_lines

if TYPE_CHECKING:
    from cbtfs.export.serve import ServedExport
    from cbtfs.listing import Point


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs export web01@latest --socket /run/web01",
            "cbtfs export web01@latest --since web01@-2d --socket /run/web01",
            "cbtfs export web01@latest --listen 0.0.0.0:10809 --tls-dir /etc/cbtfs/tls",
        )
    )(export)


def export(
    context: typer.Context,
    point: PointName,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            metavar="DIR",
            show_default=False,
            help="Directory for the Unix socket nbd.sock, which only this user can use.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", show_default=False, help="TCP address; port 0 is a free port."
        ),
    ] = None,
    tls_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Directory with ca-cert.pem, server-cert.pem and server-key.pem. Clients need a "
            "certificate of that CA.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="POINT",
            show_default=False,
            help="Also report the changes since this earlier point, as a dirty bitmap.",
        ),
    ] = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Serve the disks of a point by NBD, read-only, until Ctrl-C.

    Prints the URI of each disk and 'ready'. The exports report holes (base:allocation). The point
    is kept while the command runs. Needs QEMU (package qemu-system-common).
    """
    from cbtfs.cli.report.names import find_and_say
    from cbtfs.export.serve import Place, PointExport
    from cbtfs.listing import current_clock
    from cbtfs.mount.notify import notify
    from cbtfs.store.repository import reading

    path = readable_path(context).absolute()
    place = Place(socket, listen, tls_dir)
    place.check(path)
    clock = current_clock(time_zone)
    with reading(path) as repository:
        found = find_and_say(repository, point, clock)
        earlier = None if since is None else find_and_say(repository, since, clock)

    def ready(served: list[ServedExport]) -> None:
        notify(f"READY=1\nSTATUS={found.spelled}")
        _report(found, earlier, served, as_json=json)

    chosen = PointExport(path, found.manifest, None if earlier is None else earlier.manifest, place)
    chosen.check()
    chosen.serve(ready)


def _report(
    point: Point, since: Point | None, served: list[ServedExport], *, as_json: bool
) -> None:
    if since is not None:
        for disk in served:
            if len(disk.contexts) == 1:
                note(f"disk {disk.disk} has no bitmap: {since.spelled} does not have that disk")
    if as_json:
        from cbtfs.cli.report.documents import of_resolved

        emit(
            {
                "point": point.manifest.point,
                **of_resolved(point),
                "since": None if since is None else since.manifest.point,
                "exports": [
                    {"disk": d.disk, "size": d.size, "uri": d.uri, "contexts": d.contexts}
                    for d in served
                ],
            }
        )
    else:
        print_lines([*(disk.uri for disk in served), "ready"])
    if sys.stderr.isatty():
        note("stop the export with Ctrl-C")
