"""`cbtfs restore`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.commands.restore_in_place import (
    Compare,
    From,
    InPlace,
    InPlaceFlags,
    State,
    Verify,
    restore_in_place,
)
from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.display import display
from cbtfs.cli.report.exit_status import most_severe
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, print_lines, say
from cbtfs.cli.report.progress import Advance, progress
from cbtfs.core.units import format_size
from cbtfs.errors import CbtfsError, ExitCode, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.core.pointname import ClockContext
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

    @property
    def name(self) -> str:
        return f"{self.point.spelled}, disk {self.disk.label}"


@dataclass(frozen=True, slots=True)
class _Done:
    """One disk that was restored."""

    job: _Job
    restored: Restored
    seconds: float


@dataclass(frozen=True, slots=True)
class _Options:
    """Options that apply to each disk."""

    may_overwrite: bool
    keeps_going: bool
    jobs: int
    is_quiet: bool


class _Stopped(CbtfsError):
    """Raised in a thread to end the restore of a disk early."""


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs restore web01@latest root /var/lib/images/web01.raw",
            "cbtfs restore web01@latest root /dev/vg/web01 --force",
            "cbtfs restore web01@latest root /dev/vg/web01 --in-place --verify",
            "cbtfs restore web01@latest root - | ssh other 'cat > /srv/web01.raw'",
            "cbtfs restore 'web*@2026-11-20' '*' /var/lib/images",
            "cbtfs restore --all /var/lib/images --jobs 4 'web*@latest' db01@-2d",
        )
    )(restore)


def restore(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="POINT DISK TARGET",
            show_default=False,
            help="POINT: VM, VM@latest, VM@latest~1, VM@good, VM@-2d, VM@TIME or the start of an "
            "id. DISK: label or id of the disk. TARGET: new file (sparse), block device, or - for "
            "standard output; for several disks a directory: each disk is written to VM/DISK.raw "
            "in it. With --all: points only, one or several.",
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--all",
            metavar="DIR",
            show_default=False,
            help="Restore all disks and small files of the points to VM/POINT/DISK.raw in this "
            "directory, as a mount names them. A disk that fails does not stop the others.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Disks restored at once.")] = 1,
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
    in_place: InPlace = False,
    compare: Compare = False,
    base: From = None,
    state: State = None,
    verify: Verify = False,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Write disks of restore points to raw files, a block device or a pipe.

    POINT and DISK name one disk, or several by patterns such as 'web*@latest' and '*'; --all takes
    all disks of one or several points. All data is verified. An existing file or a device is
    overwritten only with --force; --in-place writes only what differs. With --all, the exit code is
    3 if some disks failed.
    """
    from cbtfs.listing import current_clock
    from cbtfs.restore.disk import explain_loss
    from cbtfs.store.repository import reading

    flags = InPlaceFlags(in_place, compare, base, state, verify, keep_going)
    others = {"--all": directory is not None, "--force": force}
    if flags.are_given(names, [name for name, is_given in others.items() if is_given]):
        clock = current_clock(time_zone)
        restore_in_place(context, names, flags, clock, is_json=json)
        return
    if directory is None and len(names) != 3:
        raise UsageError(
            f"restore takes POINT DISK TARGET, not {len(names)} arguments; to restore all disks "
            "of points, use --all DIR POINT…"
        )
    if directory is None and names[2] == "-" and json:
        raise UsageError("--json and TARGET - are mutually exclusive: standard output is the disk")
    clock = current_clock(time_zone)
    options = _Options(force, keep_going, jobs, json)
    with reading(repository_path(context)) as repository, ExitStack() as leases:
        if directory is None:
            work = list(_jobs(_disks(repository, names[0], names[1], clock), Path(names[2])))
            for job in work:
                _warn_of_name(job)
        else:
            work = list(_all_jobs(repository, names, directory, clock))
        for point in dict.fromkeys(job.point.manifest.point for job in work):
            leases.enter_context(repository.points.leased(point))
        failed: list[tuple[_Job, CbtfsError]] = []
        if len(work) == 1 and directory is None:
            done = [_restore_one(repository, work[0], options)]
        else:
            done, failed = _restore_all(repository, work, options, stops=directory is None)
    if json:
        documents = [_document(finished) for finished in done]
        if directory is not None:
            emit(
                {
                    "restored": documents,
                    "failed": [_failed_document(job, error) for job, error in failed],
                }
            )
        else:
            emit(documents[0] if len(documents) == 1 else {"restored": documents})
    if directory is not None:
        _conclude(done, failed)
    for finished in done:
        explain_loss(finished.restored)


def _disks(
    repository: Repository, spec: str, label: str, clock: ClockContext
) -> list[tuple[Point, DiskRecord]]:
    """Return the disks that two names or patterns match; PointNotFound if there are none."""
    from cbtfs.listing import find_disks, find_points

    points = find_points(repository, spec, clock)
    return [(point, disk) for point in points for disk in find_disks(point, label)]


def _jobs(disks: Sequence[tuple[Point, DiskRecord]], target: Path) -> Iterator[_Job]:
    """Yield a job per disk: to *target*, or to a file in the directory *target*."""
    if len(disks) == 1:
        yield _Job(*disks[0], target)
        return
    if str(target) == "-" or not target.is_dir():
        names = [f"{point.spelled} {disk.label}" for point, disk in disks]
        raise UsageError(
            f"{target} is not a directory, which several disks need; name one disk of "
            + ", ".join(names),
            names,
        )
    for point, disk in disks:
        folder = target / point.directory
        _make(folder)
        yield _Job(point, disk, folder / _file_names(point)[point.manifest.disks.index(disk)])


def _all_jobs(
    repository: Repository, names: Sequence[str], directory: Path, clock: ClockContext
) -> Iterator[_Job]:
    """Yield a job per disk and small file of the points, once each."""
    from cbtfs.listing import find_points
    from cbtfs.restore.disk import refuse_inside

    points = [point for name in names for point in find_points(repository, name, clock)]
    refuse_inside(repository.path, directory)
    _make(directory)
    for point in {point.manifest.point: point for point in points}.values():
        _make(directory / point.directory)
        folder = directory / point.directory / point.manifest.name
        _make(folder)
        for disk, name in zip(point.manifest.disks, _file_names(point), strict=True):
            yield _Job(point, disk, folder / name)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as exc:
        raise CbtfsError(f"cannot create directory {folder}: {exc.strerror}") from exc


def _file_names(point: Point) -> list[str]:
    """Return the file names of the disks of a point in a mount."""
    from cbtfs.mount.files import files_of

    return [entry.name for entry in files_of(point.manifest, 0).disks]


def _restore_one(repository: Repository, job: _Job, options: _Options) -> _Done:
    is_wanted = not options.is_quiet
    with progress(job.disk.label, job.disk.data_bytes, is_wanted=is_wanted) as advance:
        done = _restore(repository, job, options, advance)
    if not options.is_quiet:
        _print(done)
    return done


def _restore(repository: Repository, job: _Job, options: _Options, advance: Advance) -> _Done:
    from cbtfs.restore.disk import restore_disk

    started = time.monotonic()
    restored = restore_disk(
        repository,
        job.point.manifest.point,
        job.disk,
        sys.stdout.fileno() if job.is_stream else job.target,
        may_overwrite=options.may_overwrite,
        keeps_going=options.keeps_going,
        advance=advance,
    )
    return _Done(job, restored, time.monotonic() - started)


def _restore_all(
    repository: Repository, work: Sequence[_Job], options: _Options, *, stops: bool
) -> tuple[list[_Done], list[tuple[_Job, CbtfsError]]]:
    """Restore several disks, some at once. Return the restored and the failed ones.

    *stops*: raise the first error, after the other disks have been stopped.
    """
    from cbtfs.ingest.fleet.pool import Ended, Rules, run_all
    from cbtfs.ingest.fleet.schedule import FleetLimits

    stop = threading.Event()
    errors: list[CbtfsError] = []

    def on_end(ended: Ended[_Job, _Done]) -> None:
        if isinstance(ended.result, CbtfsError):
            errors.append(ended.result)
            if stops:
                stop.set()
        elif not options.is_quiet:
            _print(ended.result)

    total = sum(job.disk.data_bytes for job in work)
    with progress(f"{len(work)} disks", total, is_wanted=not options.is_quiet) as advance:

        def advance_or_stop(count: int) -> None:
            if stop.is_set():
                raise _Stopped("stopped")
            advance(count)

        rules: Rules[_Job, _Done] = Rules(FleetLimits(options.jobs), on_end=on_end)
        results = run_all(
            work, lambda job: _restore(repository, job, options, advance_or_stop), stop, rules
        )
    if stops and errors:
        raise errors[0]
    return [done for _, done in results.done], results.failed


def _conclude(done: Sequence[_Done], failed: Sequence[tuple[_Job, CbtfsError]]) -> None:
    """Print the failures and losses, and exit with their code.

    Corrupt data (21) wins over missing data (20), and that over 3, some disks failed.
    """
    losses = [
        (finished.job, finished.restored.loss)
        for finished in done
        if finished.restored.loss is not None
    ]
    for job, error in failed:
        say(f"{job.name}: {error}")
    for job, loss in losses:
        say(f"{job.name}: some bytes were lost and are zeros in the target: {loss}")
    errors = [error for _, error in [*failed, *losses]]
    if errors:
        code = most_severe(errors)
        is_data = code in (ExitCode.DATA_CORRUPT, ExitCode.CHUNK_MISSING)
        raise typer.Exit(code if is_data or not done else ExitCode.PARTIAL)


def _failed_document(job: _Job, error: CbtfsError) -> Document:
    from cbtfs.cli.report.documents import of_resolved

    return {
        "point": job.point.manifest.point,
        **of_resolved(job.point),
        "disk": job.disk.label,
        "target": str(job.target.absolute()),
        "exit": error.exit_code,
        "error": str(error),
    }


def _warn_of_name(job: _Job) -> None:
    """Warn if the target has the name of a format that is not raw."""
    from cbtfs.source.image_format import format_of_name

    image_format = format_of_name(job.target)
    if image_format is not None and job.disk.kind == "disk" and not job.is_stream:
        say(
            f"{job.target}: raw bytes are written, not a {image_format.name} image; "
            f"'qemu-img convert -f raw -O {image_format.qemu}' converts a raw file"
        )


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
    if display().is_quiet and not done.restored.lost:
        return
    job, size = done.job, format_size(done.restored.data_bytes)
    words = f"{job.disk.size} bytes, {size} of data, in {done.seconds:.1f} s"
    lost = [f"lost: {extent.start} {extent.length}" for extent in done.restored.lost]
    lines = [f"{resolved(job.point)}, disk {job.disk.label}", words, *lost]
    if job.is_stream:
        for line in lines:
            say(line)
    else:
        print_lines([lines[0], f"{job.target}: {words}", *lost])
