"""`cbtfs restore`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, DiskName, Json, PointName, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, print_lines, progress, say
from cbtfs.core.units import format_size
from cbtfs.errors import CbtfsError, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.core.pointname import Here
    from cbtfs.listing import Point
    from cbtfs.restore.disk import Restored
    from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class _Job:
    """One disk to restore."""

    point: Point
    disk: DiskRecord
    target: Path
    """`-` for standard output."""

    @property
    def is_stream(self) -> bool:
        return str(self.target) == "-"


@dataclass(frozen=True, slots=True)
class _Done:
    """One disk that was restored."""

    job: _Job
    restored: Restored
    seconds: float


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs restore web01@latest root /var/lib/images/web01.raw",
            "cbtfs restore web01@latest root /dev/vg/web01 --force",
            "cbtfs restore web01@latest root - | ssh other 'cat > /srv/web01.raw'",
            "cbtfs restore 'web*@2026-11-20' '*' /var/lib/images",
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
            help="New file (sparse), block device, or - for standard output. For several disks, "
            "a directory: each disk is written to VM/DISK.raw in it.",
        ),
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite an existing file, or the start of a device."),
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Continue at unreadable extents: write zeros there, list them, and exit with 20 "
            "or 21.",
        ),
    ] = False,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Write disks of restore points to raw files, a block device or a pipe.

    POINT and DISK name one disk, or several by patterns such as 'web*@latest' and '*'. All data is
    verified. An existing file or a device is overwritten only with --force.
    """
    from cbtfs.listing import here_and_now
    from cbtfs.restore.disk import explain_loss, restore_disk
    from cbtfs.store.repository import reading

    if str(target) == "-" and json:
        raise UsageError("--json and TARGET - are mutually exclusive: standard output is the disk")
    here = here_and_now(time_zone)
    done = list[_Done]()
    with reading(repository_path(context)) as repository:
        jobs = list(_jobs(_disks(repository, point, disk, here), target))
        for job in jobs:
            started = time.monotonic()
            with progress(job.disk.label, job.disk.data_bytes, is_wanted=not json) as advance:
                restored = restore_disk(
                    repository,
                    job.point.manifest.point,
                    job.disk,
                    sys.stdout.fileno() if job.is_stream else job.target,
                    may_overwrite=force,
                    keeps_going=keep_going,
                    advance=advance,
                )
            done.append(_Done(job, restored, time.monotonic() - started))
            if not json:
                _print(done[-1])
    if json:
        documents = [_document(each) for each in done]
        emit(documents[0] if len(documents) == 1 else {"restored": documents})
    for each in done:
        explain_loss(each.restored)


def _disks(
    repository: Repository, spec: str, label: str, here: Here
) -> list[tuple[Point, DiskRecord]]:
    """Return the disks that two names or patterns match; PointNotFound if there are none."""
    from cbtfs.listing import find_disks, find_points

    points = find_points(repository, spec, here)
    return [(point, disk) for point in points for disk in find_disks(point, label)]


def _jobs(disks: Sequence[tuple[Point, DiskRecord]], target: Path) -> Iterator[_Job]:
    """Yield a job per disk: to *target*, or to a file in the directory *target*."""
    if len(disks) == 1:
        yield _Job(*disks[0], target)
        return
    if str(target) == "-" or not target.is_dir():
        names = ", ".join(f"{point.spelled} {disk.label}" for point, disk in disks)
        raise UsageError(
            f"{target} is not a directory, which several disks need; name one disk of {names}"
        )
    from cbtfs.mount.files import files_of

    for point, disk in disks:
        folder = target / point.directory
        try:
            folder.mkdir(exist_ok=True)
        except OSError as exc:
            raise CbtfsError(f"cannot create directory {folder}: {exc.strerror}") from exc
        files = files_of(point.manifest, 0)
        yield _Job(point, disk, folder / files.disks[point.manifest.disks.index(disk)].name)


def _document(done: _Done) -> Document:
    from cbtfs.cli.report.documents import of_extent, of_resolved

    job = done.job
    return {
        "point": job.point.manifest.point,
        **of_resolved(job.point),
        "disk": job.disk.label,
        "target": str(job.target.absolute()),
        "size": job.disk.size,
        "data_bytes": done.restored.data_bytes,
        "lost": [of_extent(extent) for extent in done.restored.lost],
        "seconds": round(done.seconds, 3),
    }


def _print(done: _Done) -> None:
    job, size = done.job, format_size(done.restored.data_bytes)
    words = f"{job.disk.size} bytes, {size} of data, in {done.seconds:.1f} s"
    lost = [f"lost: {extent.start} {extent.length}" for extent in done.restored.lost]
    lines = [f"{resolved(job.point)}, disk {job.disk.label}", words, *lost]
    if job.is_stream:
        for line in lines:
            say(line)
    else:
        print_lines([lines[0], f"{job.target}: {words}", *lost])
