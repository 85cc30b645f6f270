"""`cbtfs mount` and `cbtfs umount`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import APPLIANCE, PARSE, engines, parse_engine
from cbtfs.cli.options.state_directory import state_directory
from cbtfs.cli.report.output import emit, note, print_lines, report
from cbtfs.errors import MountFailed, UsageError

Mountpoint = Annotated[
    Path, typer.Argument(metavar="MNT", show_default=False, help="Mount point: an empty directory.")
]

_COUNTED: Final = {"points": "restore point", "vms": "VM"}
"""Members of the status of a mount, and the things that they count."""


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
            "--foreground",
            help="Stay in the foreground; print 'ready' when the mount can be used.",
        ),
    ] = False,
    workers: Annotated[
        str, typer.Option(metavar="N", help="Worker processes, 1 to 64; auto: one for each core.")
    ] = "auto",
    allow_other: Annotated[
        bool,
        typer.Option(
            "--allow-other", help="Allow access by root and other users, as file modes permit."
        ),
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="~/.local/state/cbtfs/mount.log",
            help="Log file of errors without --foreground.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="parse|appliance|auto",
            parser=parse_engine,
            help="Engine that reads files of guests below files/, as in 'cbtfs files'. auto and "
            "appliance start a small VM for a point whose file systems need one.",
        ),
    ] = PARSE,
    json: Json = False,
) -> None:
    """Mount all restore points as read-only raw disk files.

    Each VM is a directory, each point a directory with one file per disk. New points appear while
    the mount is running; reads of corrupt data fail with EIO. Unmount with 'cbtfs umount'.
    """
    from cbtfs.mount.lifecycle import MountServer
    from cbtfs.mount.notify import notify

    count = _worker_count(workers)
    if engine == APPLIANCE:
        from cbtfs.files.engine_appliance.install import require_appliance

        require_appliance()
    server = MountServer(
        readable_path(context).absolute(),
        mountpoint.absolute(),
        count,
        allow_other,
        engines(context, engine, None),
    )
    if foreground:

        def ready() -> None:
            notify(f"READY=1\nSTATUS=mounted on {server.mountpoint}")
            if json:
                emit({"mountpoint": str(server.mountpoint), "workers": count})
            else:
                print_lines(["ready"])
            if sys.stderr.isatty():
                end = shlex.quote(str(server.mountpoint))
                note(
                    f"{server.repository} is mounted on {server.mountpoint}; unmount it with "
                    f"Ctrl-C or: cbtfs umount {end}"
                )

        server.serve(ready)
        return
    log = (log_file or _default_log_file()).absolute()
    server.serve_in_background(log)
    if json:
        emit({"mountpoint": str(server.mountpoint), "workers": count, "log_file": str(log)})
    else:
        report([_mounted(server.repository, server.mountpoint)])


def _mounted(repository: Path, mountpoint: Path) -> str:
    """Say what is mounted where, and how to end it."""
    from cbtfs.mount.mountpoint import load_status

    try:
        status = load_status(mountpoint)
        points, vms = (_counted(status[n], w) for n, w in _COUNTED.items())
        what = f": {points} of {vms}"
    except (MountFailed, KeyError):
        what = ""  # the mount works all the same, or ended since; its log says why
    end = shlex.quote(str(mountpoint))
    return f"{repository} is mounted on {mountpoint}{what}; unmount it with: cbtfs umount {end}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def umount(
    mountpoint: Mountpoint,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy",
            help="Detach a busy mount: open files stay readable, and it ends when they are closed.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Unmount a mount of cbtfs.

    A busy mount is not unmounted; the processes that use it are listed.
    """
    from cbtfs.mount.mountpoint import remove

    remove(mountpoint, is_lazy=lazy)
    if json:
        emit({"mountpoint": str(mountpoint.absolute())})


def _worker_count(text: str) -> int:
    import os

    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 64:
        raise UsageError(f"invalid --workers {text!r}: use a number from 1 to 64, or auto")
    return int(text)


def _default_log_file() -> Path:
    folder = state_directory()
    if folder is None:
        raise UsageError("no default log file: this user has no home directory; use --log-file")
    return folder / "mount.log"
