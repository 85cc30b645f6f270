"""`cbtfs mount` and `cbtfs umount`."""

from pathlib import Path
from typing import Annotated

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.output import emit, print_lines
from cbtfs.errors import UsageError

Mountpoint = Annotated[
    Path, typer.Argument(metavar="MNT", show_default=False, help="An empty folder.")
]


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example("cbtfs --repo /srv/backup mount /mnt/backup", "ls /mnt/backup/*/latest/")
    )(mount)
    app.command(epilog=example("cbtfs umount /mnt/backup"))(umount)


def mount(
    context: typer.Context,
    mountpoint: Mountpoint,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay until it is unmounted; print 'ready' once it can be used."
        ),
    ] = False,
    workers: Annotated[
        str, typer.Option(metavar="N", help="Processes that answer; auto: one for each core.")
    ] = "auto",
    allow_other: Annotated[
        bool,
        typer.Option("--allow-other", help="Let root and other users in, as far as modes allow."),
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="~/.local/state/cbtfs/mount.log",
            help="Where errors go without --foreground.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show every restore point as raw disk files, read-only, until it is unmounted."""
    from cbtfs.mount.lifecycle import MountServer
    from cbtfs.mount.notify import notify

    count = _worker_count(workers)
    mounting = MountServer(
        repository_path(context).absolute(), mountpoint.absolute(), count, allow_other
    )
    if foreground:

        def ready() -> None:
            notify(f"READY=1\nSTATUS=mounted on {mounting.mountpoint}")
            if json:
                emit({"mountpoint": str(mounting.mountpoint), "workers": count})
            else:
                print_lines(["ready"])

        mounting.serve(ready)
        return
    log = (log_file or _default_log_file()).absolute()
    mounting.serve_in_background(log)
    if json:
        emit({"mountpoint": str(mounting.mountpoint), "workers": count, "log_file": str(log)})


def umount(
    mountpoint: Mountpoint,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy",
            help="Detach it though it is in use: what is open reads on, and the mount ends last.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Unmount a mount of cbtfs; one that is in use stays, and what uses it is named."""
    from cbtfs.mount.mountpoint import remove

    remove(mountpoint, is_lazy=lazy)
    if json:
        emit({"mountpoint": str(mountpoint.absolute())})


def _worker_count(text: str) -> int:
    import os

    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 64:
        raise UsageError(f"--workers {text!r} is no number from 1 to 64, nor 'auto'")
    return int(text)


def _default_log_file() -> Path:
    """Where the XDG Base Directory Specification has logs."""
    import os

    state = os.environ.get("XDG_STATE_HOME") or ""
    try:
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError as exc:
        raise UsageError("this user has no home directory: name a --log-file") from exc
    return base / "cbtfs" / "mount.log"
