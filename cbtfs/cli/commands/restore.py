"""`cbtfs restore`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
    WithMarker,
    restore_in_place,
)
from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone, example
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.output import emit
from cbtfs.cli.report.progress import Advance, progress
from cbtfs.cli.report.restored import (
    Done,
    ImageFormat,
    Job,
    conclude,
    document,
    failed_document,
    print_done,
    warn_of_name,
)
from cbtfs.errors import CbtfsError, UsageError

if TYPE_CHECKING:
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.core.pointname import ClockContext
    from cbtfs.listing import Point
    from cbtfs.mount.private import PrivateMount
    from cbtfs.restore.marker import Marker
    from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class _Options:
    """Options that apply to each disk."""

    may_overwrite: bool
    keeps_going: bool
    jobs: int
    is_quiet: bool
    mounted: PrivateMount | None = None
    """Source of converted disks."""
    has_marker: bool = False
    state: Path | None = None
    """Path of the marker of the only disk; by default that of the target with a suffix."""


class _Stopped(CbtfsError):
    """Raised in a thread to end the restore of a disk early."""


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs restore web01@latest root /var/lib/images/web01.raw",
            "cbtfs restore web01@latest root /dev/vg/web01 --force",
            "cbtfs restore web01@latest root /dev/vg/web01 --in-place --verify",
            "cbtfs restore web01@latest root /var/lib/images/web01.raw --marker",
            "cbtfs restore web01@latest root - | ssh other 'cat > /srv/web01.raw'",
            "cbtfs restore 'web*@2026-11-20' '*' /var/lib/images",
            "cbtfs restore --all /var/lib/images --jobs 4 'web*@latest' db01@-2d",
            "cbtfs restore web01@latest root /var/lib/images/web01.qcow2 --to qcow2",
        )
    )(restore)


def restore(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POINT DISK TARGET",
            show_default=False,
            help="POINT: VM, VM@latest, VM@latest~1, VM@good, VM@-2d, VM@TIME or the start of an "
            "id. DISK: label or id of the disk. TARGET: new file (sparse), block device, or - for "
            "standard output; for several disks a directory: each disk is written to VM/DISK.raw "
            "in it. With --all DIR: points only, one or several.",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--all",
            metavar="DIR",
            show_default=False,
            help="Restore all disks and small files of the points, the only arguments then, to "
            "VM/POINT/DISK.raw in this directory, as a mount names them. A disk that fails does "
            "not stop the others.",
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
    marker: WithMarker = False,
    verify: Verify = False,
    to: Annotated[
        ImageFormat | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            show_default="raw",
            help="Write a new file of this format with qemu-img: qcow2, vmdk or vhdx.",
        ),
    ] = None,
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

    names = arguments or []
    flags = InPlaceFlags(in_place, compare, base, state, verify, keep_going)
    others = {
        "--all": directory is not None,
        "--force": force,
        "--to": to is not None,
        "--marker": marker,
    }
    if flags.are_given(names, [name for name, is_given in others.items() if is_given]):
        clock = current_clock(time_zone)
        restore_in_place(context, names, flags, clock, is_json=json)
        return
    if directory is None and len(names) != 3:
        raise UsageError(
            f"restore takes POINT DISK TARGET, not {len(names)} arguments; to restore all disks "
            "of points, use --all DIR POINT…"
        )
    if not names:
        raise UsageError(
            f"--all {directory}: no points given; use restore --all DIR POINT…, where DIR is the "
            "directory to write to"
        )
    if directory is None and names[2] == "-" and json:
        raise UsageError("--json and TARGET - are mutually exclusive: standard output is the disk")
    if to is not None:
        excluded = {
            "--force": force,
            "--keep-going": keep_going,
            "--marker": marker,
            "--state": state is not None,
        }
        for other, is_given in excluded.items():
            if is_given:
                raise UsageError(f"--to and {other} are mutually exclusive: give one")
        if directory is None:
            from cbtfs.restore.convert import refuse_target

            refuse_target(names[2])
    clock = current_clock(time_zone)
    options = _Options(
        force, keep_going, jobs, json, has_marker=marker or state is not None, state=state
    )
    with reading(readable_path(context)) as repository, ExitStack() as leases:
        if directory is None:
            work = list(_jobs(_disks(repository, names[0], names[1], clock), Path(names[2]), to))
            for job in work:
                warn_of_name(job)
        else:
            work = list(_all_jobs(repository, names, directory, clock, to))
        if options.has_marker:
            _refuse_marker(work, state)
        for point in dict.fromkeys(job.point.manifest.point for job in work):
            leases.enter_context(repository.points.leased(point))
        if to is not None:
            options = replace(options, mounted=_mount(repository, work, leases))
        failed: list[tuple[Job, CbtfsError]] = []
        if len(work) == 1 and directory is None:
            done = [_restore_one(repository, work[0], options)]
        else:
            done, failed = _restore_all(repository, work, options, stops=directory is None)
    if json:
        documents = [document(finished) for finished in done]
        if directory is not None:
            emit(
                {
                    "restored": documents,
                    "failed": [failed_document(job, error) for job, error in failed],
                }
            )
        else:
            emit(documents[0] if len(documents) == 1 else {"restored": documents})
    if directory is not None:
        conclude(done, failed)
    for finished in done:
        explain_loss(finished.restored)


def _mount(repository: Repository, work: Sequence[Job], stack: ExitStack) -> PrivateMount:
    """Mount the repository for qemu-img until *stack* is closed."""
    from cbtfs.mount.private import private_mount
    from cbtfs.restore.convert import find_qemu_img

    if all(job.to is None for job in work):
        raise UsageError(f"{work[0].disk.label} is a small file of the VM: omit --to")
    find_qemu_img()
    return stack.enter_context(private_mount(repository.path))


def _disks(
    repository: Repository, spec: str, label: str, clock: ClockContext
) -> list[tuple[Point, DiskRecord]]:
    """Return the disks that two names or patterns match; PointNotFound if there are none."""
    from cbtfs.listing import find_disks, find_points

    points = find_points(repository, spec, clock)
    return [(point, disk) for point in points for disk in find_disks(point, label)]


def _jobs(
    disks: Sequence[tuple[Point, DiskRecord]], target: Path, to: ImageFormat | None
) -> Iterator[Job]:
    """Yield a job per disk: to *target*, or to a file in the directory *target*."""
    if len(disks) == 1:
        yield Job(*disks[0], target, _format(disks[0][1], to))
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
        name = _file_names(point, to)[point.manifest.disks.index(disk)]
        yield Job(point, disk, folder / name, _format(disk, to))


def _all_jobs(
    repository: Repository,
    names: Sequence[str],
    directory: Path,
    clock: ClockContext,
    to: ImageFormat | None,
) -> Iterator[Job]:
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
        for disk, name in zip(point.manifest.disks, _file_names(point, to), strict=True):
            yield Job(point, disk, folder / name, _format(disk, to))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as exc:
        raise CbtfsError(f"cannot create directory {folder}: {exc.strerror}") from exc


def _format(disk: DiskRecord, to: ImageFormat | None) -> ImageFormat | None:
    return to if disk.kind == "disk" else None


def _file_names(point: Point, to: ImageFormat | None) -> list[str]:
    """Return the file names of the disks of a point: in a mount, or converted."""
    from cbtfs.core.filenames import converted_names, disk_names

    disks = point.manifest.disks
    return disk_names(disks) if to is None else converted_names(disks, to)


def _restore_one(repository: Repository, job: Job, options: _Options) -> Done:
    is_wanted = not options.is_quiet
    with progress(job.disk.label, job.disk.data_bytes, is_wanted=is_wanted) as advance:
        done = _restore(repository, job, options, advance)
    if not options.is_quiet:
        print_done(done)
    return done


def _restore(repository: Repository, job: Job, options: _Options, advance: Advance) -> Done:
    from cbtfs.restore.disk import restore_disk

    started = time.monotonic()
    if options.mounted is not None and job.to is not None:
        return _convert(repository, job, options.mounted, advance)
    restored = restore_disk(
        repository,
        job.point.manifest.point,
        job.disk,
        sys.stdout.fileno() if job.is_stream else job.target,
        may_overwrite=options.may_overwrite,
        keeps_going=options.keeps_going,
        marker=_marker(repository, job, options),
        advance=advance,
    )
    return Done(job, restored, time.monotonic() - started)


def _refuse_marker(work: Sequence[Job], state: Path | None) -> None:
    """Raise UsageError if these disks cannot have markers."""
    if work[0].is_stream:
        raise UsageError("--marker and TARGET - are mutually exclusive: only a file has a marker")
    if all(job.disk.kind != "disk" for job in work):
        raise UsageError(f"{work[0].disk.label} is a small file of the VM: omit --marker")
    if state is not None and len(work) > 1:
        raise UsageError(f"--state is the marker of one disk, not of {len(work)}: use --marker")


def _marker(repository: Repository, job: Job, options: _Options) -> Marker | None:
    """Return the marker to write after the restore of a disk; UsageError if it is unsuitable."""
    from cbtfs.restore.marker import marker_of_file

    if not options.has_marker or job.disk.kind != "disk":
        return None
    return marker_of_file(job.target, options.state, repository.path)


def _convert(repository: Repository, job: Job, mounted: PrivateMount, advance: Advance) -> Done:
    from cbtfs.restore.convert import MountedDisk, convert_disk
    from cbtfs.restore.disk import Restored

    started = time.monotonic()
    manifest = job.point.manifest
    disk = MountedDisk(mounted.path(manifest, job.disk), mounted.has_failed_reads)
    convert_disk(repository, manifest.point, job.disk, disk, job.target, str(job.to), advance)
    return Done(job, Restored(job.disk.data_bytes), time.monotonic() - started)


def _restore_all(
    repository: Repository, work: Sequence[Job], options: _Options, *, stops: bool
) -> tuple[list[Done], list[tuple[Job, CbtfsError]]]:
    """Restore several disks, some at once. Return the restored and the failed ones.

    *stops*: raise the first error, after the other disks have been stopped.
    """
    from cbtfs.ingest.fleet.pool import Ended, Rules, run_all
    from cbtfs.ingest.fleet.schedule import FleetLimits

    stop = threading.Event()
    errors: list[CbtfsError] = []

    def on_end(ended: Ended[Job, Done]) -> None:
        if isinstance(ended.result, CbtfsError):
            errors.append(ended.result)
            if stops:
                stop.set()
        elif not options.is_quiet:
            print_done(ended.result)

    total = sum(job.disk.data_bytes for job in work)
    with progress(f"{len(work)} disks", total, is_wanted=not options.is_quiet) as advance:

        def advance_or_stop(count: int) -> None:
            if stop.is_set():
                raise _Stopped("stopped")
            advance(count)

        rules: Rules[Job, Done] = Rules(FleetLimits(options.jobs), on_end=on_end)
        results = run_all(
            work, lambda job: _restore(repository, job, options, advance_or_stop), stop, rules
        )
    if stops and errors:
        raise errors[0]
    return [done for _, done in results.done], results.failed
