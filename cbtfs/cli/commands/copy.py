"""`cbtfs copy`: copy restore points to another repository."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import DryRun, Json, LockWait, example
from cbtfs.cli.options.context import located, readable_path
from cbtfs.cli.report.meter import Unit
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, print_lines, report
from cbtfs.cli.report.progress import progress
from cbtfs.core.names import printable
from cbtfs.core.units import format_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.copies.points import CopiedPoint, CopyResult
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs copy --to /mnt/offsite",
            "cbtfs copy web01 'db-*' --to /mnt/offsite",
            "cbtfs copy web01@latest --to /mnt/usb --dry-run",
        )
    )(copy)


def copy(
    context: typer.Context,
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="DIR", show_default=False, help="Repository that gets the points."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[POINT…|VM…]",
            show_default=False,
            help="Points, or VMs with all their points; names may have wildcards. Default: all.",
        ),
    ] = None,
    dry_run: DryRun = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Copy restore points to another repository.

    Only objects that the other repository lacks are read, verified and stored there. Points keep
    id, time, tags and protection, and suspect points stay suspect. A copy that was interrupted
    continues where it ended, and a second copy does nothing. A point that was forgotten in the
    other repository stays forgotten until a prune there has removed it. This repository is only
    read.
    """
    from cbtfs.copies.points import copy_points
    from cbtfs.store.repository import reading, writing

    path, to = readable_path(context), located(to)
    _refuse_same(path, to)
    started = time.monotonic()
    with (
        reading(path) as source,
        writing(to, lock_wait=lock_wait) as target,
    ):
        points = _selected(source, names or [])
        total = sum(disk.size for point in points for disk in point.manifest.disks)
        with progress("copying", total, is_wanted=not json, unit=Unit.SHARE) as advance:
            result = copy_points(source, target, points, is_dry_run=dry_run, progress=advance)
    if json:
        emit({**_document(to, result, time.monotonic() - started), "dry_run": dry_run})
    elif dry_run:
        print_lines(_lines(result, "would be copied"))
    else:
        report(_lines(result, "copied"))
    _conclude(result)


def _refuse_same(path: Path, to: Path) -> None:
    if to.exists() and path.exists() and to.samefile(path):
        raise UsageError(f"--to {to} is the repository itself: name another one")


def _selected(repository: Repository, names: Sequence[str]) -> list[Point]:
    """Return the points that *names* mean, once each, in order of capture for each VM."""
    from cbtfs.listing import find_points, find_vms, labelled, vm_names
    from cbtfs.listing import points as points_in

    with repository.catalog.view() as view:
        labels = vm_names(view)
        if not names:
            chosen = list(points_in(view))
        else:
            chosen = []
            for name in names:
                vms = find_vms(view, name)
                chosen += [point for vm in vms for point in points_in(view, vm.id)]
                if not vms:
                    chosen += find_points(repository, name)
    unique = {point.manifest.point: labelled(point, labels) for point in chosen}
    return sorted(unique.values(), key=lambda p: (p.vm_label or "", p.manifest.order))


def _lines(result: CopyResult, done: str) -> list[str]:
    from cbtfs.copies.points import CopyStatus

    lines = [
        f"{resolved(copied.point)} {done}"
        for copied in result.points
        if copied.status is CopyStatus.COPIED
    ]
    counts = f"{result.count(CopyStatus.COPIED)} points {done}"
    counts += f", {result.count(CopyStatus.PRESENT)} were there"
    forgotten = result.count(CopyStatus.FORGOTTEN)
    if forgotten:
        counts += f", {forgotten} are forgotten there"
    if result.suspects:
        counts += f", {len(result.suspects)} became suspect"
    stored = f": {result.chunks} chunks moved, {format_size(result.stored_bytes)} stored"
    return [*map(printable, lines), counts + (stored if done == "copied" else "")]


def _document(to: Path, result: CopyResult, seconds: float) -> dict[str, Any]:
    from cbtfs.copies.points import CopyStatus

    return {
        "to": str(to.absolute()),
        "points": [_of_point(copied) for copied in result.points],
        **{str(status): result.count(status) for status in CopyStatus},
        "suspects": list(result.suspects),
        "chunks": result.chunks,
        "stored_bytes": result.stored_bytes,
        "seconds": round(seconds, 3),
    }


def _of_point(copied: CopiedPoint) -> dict[str, Any]:
    from cbtfs.cli.report.documents import of_resolved

    error = copied.error
    return {
        "id": copied.point.manifest.point,
        **of_resolved(copied.point),
        "status": str(copied.status),
        "exit": None if error is None else error.exit_code,
        "error": None if error is None else str(error),
    }


def _conclude(result: CopyResult) -> None:
    """Exit with the code of the failures, or 3 if other points are in the target."""
    from cbtfs.cli.report.exit_status import conclude

    failed = [(printable(name), error) for name, error in result.failed]
    conclude(failed, is_any_done=len(failed) < len(result.points), is_whole=True)
