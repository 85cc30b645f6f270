"""`cbtfs overlay`: run the disks of a restore point, with writes kept outside the repository."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.commands.overlay_boot import boot
from cbtfs.cli.options.arguments import LOCAL, Json, LockWait, PointName, TimeZone, example
from cbtfs.cli.options.context import readable_path, repository_path
from cbtfs.cli.report.captures import print_point
from cbtfs.cli.report.output import emit, note, print_lines, print_table, report
from cbtfs.cli.report.progress import captures
from cbtfs.core.units import format_size, parse_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.overlay.folder import OverlayFolder
    from cbtfs.overlay.lists import ListedOverlay
    from cbtfs.overlay.serve import OverlayServer, ServedDisk

OverlayName = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="Name of the overlay.")
]
Directory = Annotated[
    Path,
    typer.Option(
        "--dir", metavar="DIR", show_default=False, help="Directory where overlays are kept."
    ),
]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(rich_markup_mode=None)
    group.callback(epilog=example("cbtfs overlay create web01@latest lab --dir /var/lib/overlays"))(
        _overlay
    )
    directory = "--dir /var/lib/overlays"
    group.command(
        epilog=example(
            f"cbtfs overlay create web01@latest lab {directory}",
            f"cbtfs overlay create web01@-2d lab {directory} --limit 20G",
        )
    )(create)
    group.command(
        epilog=example(
            f"cbtfs overlay start lab {directory} --fork",
            f"cbtfs overlay start lab {directory} --raw /mnt/lab",
            f"cbtfs overlay start lab {directory} --nbd /run/lab",
        )
    )(start)
    group.command(
        epilog=example(
            f"cbtfs overlay boot lab {directory}",
            f"cbtfs overlay boot lab {directory} --network user --memory 2G -- -cdrom rescue.iso",
        )
    )(boot)
    group.command(epilog=example(f"cbtfs overlay stop lab {directory}"))(stop)
    group.command("list", epilog=example("cbtfs overlay list"))(list_all)
    group.command(
        epilog=example(
            f"cbtfs overlay commit lab {directory}",
            f"cbtfs overlay commit lab {directory} --as web01-repaired",
        )
    )(commit)
    group.command(
        epilog=example(
            f"cbtfs overlay discard lab {directory}",
            f"cbtfs overlay discard lab {directory} --lost",
        )
    )(discard)
    app.add_typer(group, name="overlay")


def _overlay() -> None:
    """Run the disks of a restore point and keep the writes apart.

    An overlay is a writable set of all disks of a point. The writes are in qcow2 images in DIR; the
    point does not change, and it is kept while the overlay exists. Overlays need QEMU (packages
    qemu-utils and qemu-system-common).
    """


def _folder(directory: Path, name: str) -> OverlayFolder:
    from cbtfs.overlay.folder import overlay_folder

    return overlay_folder(directory, name)


def create(
    context: typer.Context,
    point: PointName,
    name: OverlayName,
    directory: Directory,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            show_default="none",
            help="Maximum size of the writes to all disks: the guest then gets 'no space left'.",
        ),
    ] = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Create an overlay of all disks of a point.

    The point is pinned: 'cbtfs forget' keeps it until the overlay is discarded. The first pin of a
    repository makes older versions of cbtfs refuse the repository.
    """
    from cbtfs.listing import current_clock, find_point
    from cbtfs.overlay.create import create_overlay
    from cbtfs.store.repository import reading

    folder = _folder(directory, name)
    limit_bytes = None if limit is None else _limit(limit)
    with reading(readable_path(context)) as repository:
        found = find_point(repository, point, current_clock(time_zone))
        overlay = create_overlay(repository, found.manifest, folder, limit_bytes)
    if json:
        from cbtfs.cli.report.documents import of_resolved

        emit(
            {
                "overlay": name,
                "directory": str(folder.path),
                "point": overlay.point,
                **{key: value for key, value in of_resolved(found).items() if key != "name"},
                "limit": limit_bytes,
                "disks": [{"disk": disk.label, "size": disk.size} for disk in overlay.disks],
            }
        )
    else:
        report([f"overlay {name} of {found.spelled} is in {folder.path}"])


def _limit(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise UsageError(f"invalid --limit {exc}") from exc


def start(
    context: typer.Context,
    name: OverlayName,
    directory: Directory,
    raw: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="the directory of the overlay",
            help="Directory for the writable raw files, one for each disk: DISK.raw.",
        ),
    ] = None,
    nbd: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Directory for the Unix socket NAME.sock of an NBD server, in place of raw files.",
        ),
    ] = None,
    mount: Annotated[
        Path | None,
        typer.Option(
            metavar="MNT",
            show_default="a private mount",
            help="Read the point from this mount of the repository: many overlays then share the "
            "memory of one.",
        ),
    ] = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Return when the disks can be used, and serve on.")
    ] = False,
    json: Json = False,
) -> None:
    """Serve the disks of an overlay until 'cbtfs overlay stop' or Ctrl-C.

    Prints 'ready' when the disks can be used. A raw file appears only then. If this command is
    killed, the disks disappear; writes that the guest has flushed are safe, and the next start
    continues with them.
    """
    from cbtfs.overlay.serve import OverlayServer

    # Absolute paths: with --fork the server has another current directory.
    raw, nbd, mount = (None if path is None else path.absolute() for path in (raw, nbd, mount))
    server = OverlayServer(
        readable_path(context).absolute(), _folder(directory, name), raw, nbd, mount
    )
    if fork:
        _report_started(name, server.serve_in_background(), is_fork=True, as_json=json)
    else:
        _serve(server, as_json=json)


def _serve(server: OverlayServer, *, as_json: bool) -> None:
    from cbtfs.mount.notify import notify

    name = server.folder.name

    def ready(disks: list[ServedDisk]) -> None:
        notify(f"READY=1\nSTATUS=overlay {name}")
        _report_started(name, disks, is_fork=False, as_json=as_json)
        if sys.stderr.isatty():
            note(f"overlay {name} is running; stop it with Ctrl-C")

    server.serve(ready)


def _report_started(name: str, disks: list[ServedDisk], *, is_fork: bool, as_json: bool) -> None:
    if as_json:
        items = [{"disk": d.disk.label, "size": d.size, "location": d.location} for d in disks]
        emit({"overlay": name, "disks": items})
    elif is_fork:
        report([disk.location for disk in disks])
    else:
        print_lines([*(disk.location for disk in disks), "ready"])


def stop(
    context: typer.Context, name: OverlayName, directory: Directory, json: Json = False
) -> None:
    """Stop serving an overlay; its writes are kept.

    An overlay whose raw files are in use is not stopped; the users are listed. Removes what a
    killed start has left, too.
    """
    from cbtfs.overlay.serve import stop_overlay

    was_running = stop_overlay(_folder(directory, name))
    if json:
        emit({"overlay": name, "was_running": was_running})
    else:
        report([f"overlay {name} {'is stopped' if was_running else 'was not running'}"])


def list_all(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", show_default="all", help="List the overlays in this directory."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the overlays of the repository, with the points that they keep.

    An overlay is lost if its directory is gone: 'discard --lost' removes its pin.
    """
    from cbtfs.overlay.lists import list_overlays

    overlays = list_overlays(repository_path(context), directory)
    if json:
        emit({"overlays": [_document(overlay) for overlay in overlays]})
    elif overlays:
        print_table(
            ("overlay", "state", "point", "written", "host", "directory"),
            [_row(overlay) for overlay in overlays],
            right=("written",),
        )


def _document(listed: ListedOverlay) -> dict[str, Any]:
    pin, overlay = listed.pin, listed.overlay
    return {
        "overlay": pin.name,
        "id": pin.id,
        "state": listed.state,
        "point": pin.point,
        "vm": None if overlay is None else overlay.vm,
        "host": pin.host,
        "directory": pin.directory,
        "created": pin.created,
        "limit": None if overlay is None else overlay.limit,
        "stored_bytes": listed.stored_bytes,
    }


def _row(listed: ListedOverlay) -> tuple[str, ...]:
    pin = listed.pin
    stored = "" if listed.stored_bytes is None else format_size(listed.stored_bytes)
    return pin.name, listed.state, pin.point[:12], stored, pin.host, pin.directory


def commit(
    context: typer.Context,
    name: OverlayName,
    directory: Directory,
    vm: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="VM",
            show_default="the VM of the point, '+' and NAME",
            help="VM that the new point belongs to. One that comes from vSphere is refused.",
        ),
    ] = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Take a restore point of a stopped overlay.

    Only what the overlay wrote is read. The point is crash-consistent: it shows the disks as after
    a power failure at the time of the stop. The overlay remains and can be started again.
    """
    from cbtfs.overlay.commit import CRASH_CONSISTENT, CommitOptions, commit_overlay

    started = time.monotonic()
    with captures(is_wanted=not json, is_serial=True) as begin:
        options = CommitOptions(vm, lock_wait, lambda label, size: begin(f"{name} {label}", size))
        manifest = commit_overlay(readable_path(context), _folder(directory, name), options)
    if json:
        from cbtfs.cli.report.documents import of_ingest

        document = of_ingest(manifest, time.monotonic() - started)
        emit({**document, "overlay": name, "consistency": CRASH_CONSISTENT})
    else:
        print_point(manifest)
        report([f"the point is {CRASH_CONSISTENT}"])


def discard(
    context: typer.Context,
    name: OverlayName,
    directory: Directory,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost", help="Remove the pin of an overlay whose directory is gone or damaged."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Remove a stopped overlay with all its writes; its point is no longer pinned.

    Points that were committed from the overlay stay. A running overlay is refused: stop it first.
    """
    from cbtfs.overlay.create import discard_lost, discard_overlay

    folder, path = _folder(directory, name), repository_path(context)
    if lost:
        discard_lost(path, folder)
    else:
        discard_overlay(path, folder)
    if json:
        emit({"overlay": name, "directory": str(folder.path), "is_lost": lost})
    else:
        report([f"overlay {name} is discarded"])
