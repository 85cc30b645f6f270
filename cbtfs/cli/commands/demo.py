"""`cbtfs demo`: capture, mount and verify a generated disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.context import options_of
from cbtfs.cli.report.output import emit, note, print_lines, print_table
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.demo.show import ComparedPoint


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs demo", "cbtfs demo --vsphere --keep /var/tmp/demo"))(demo)


def demo(
    context: typer.Context,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Keep the disk, the repository and the reference copies in this new directory.",
        ),
    ] = None,
    vsphere: Annotated[
        bool,
        typer.Option("--vsphere", help="Capture the disk over TLS as a VM of a simulated vCenter."),
    ] = False,
    json: Json = False,
) -> None:
    """Show cbtfs at work: capture, mount and compare a generated disk.

    A disk with a file system is generated, captured four times, mounted and compared byte by byte
    with reference copies. Everything is removed at the end unless --keep is given. With --repo, the
    repository is created there, in a new directory or a bucket, and stays.
    """
    from cbtfs.demo.show import require_equal, timed, work_folder

    with work_folder(keep) as folder:
        outcomes, seconds = timed(
            folder, note, over_vsphere=vsphere, repository=options_of(context).repo
        )
    if json:
        emit({"points": [_document(o) for o in outcomes], "seconds": round(seconds, 3)})
    else:
        _print(outcomes, seconds)
    require_equal(outcomes)


def _document(outcome: ComparedPoint) -> dict[str, object]:
    return {
        **outcome.ingest,
        "same_disk": outcome.is_same_disk,
        "same_files": outcome.is_same_files,
    }


def _print(outcomes: list[ComparedPoint], seconds: float) -> None:
    rows = []
    for outcome in outcomes:
        disk = outcome.ingest["disks"][0]
        rows.append(
            (
                outcome.name,
                disk["kind"],
                format_size(disk["size"]),
                format_size(disk["read_bytes"]),
                str(disk["zero_blocks"]),
                format_size(disk["stored_bytes"]),
                "same" if outcome.is_same_disk else "DIFFERENT",
                "same" if outcome.is_same_files else "DIFFERENT",
            )
        )
    header = ("point", "kind", "size", "read", "zero blocks", "stored", "disk", "files")
    print_table(header, rows, right=("size", "read", "zero blocks", "stored"))
    print_lines([f"{len(outcomes)} restore points, {seconds:.1f} s"])
