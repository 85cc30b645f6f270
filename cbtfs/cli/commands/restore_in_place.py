"""`cbtfs restore --in-place`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.display import display
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, note, print_lines
from cbtfs.cli.report.progress import progress
from cbtfs.core.units import format_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.core.pointname import ClockContext
    from cbtfs.listing import Point
    from cbtfs.restore.in_place import Base, InPlaceResult
    from cbtfs.store.repository import Repository

InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Write only what differs onto an existing file, a block device or a writable NBD "
        "export (nbd://…). Bytes after the end of the disk are left alone.",
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Read and compare the whole target (default).",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="POINT",
        show_default=False,
        help="Compare only the blocks in which the disk differs from that of POINT, which the "
        "target holds. Needs a file that nothing has changed since a restore of POINT in place; "
        "else the exit code is 33.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        show_default=False,
        help="File that records which content the target holds (default: TARGET.cbtfs).",
    ),
]
WithMarker = Annotated[
    bool,
    typer.Option(
        "--marker",
        help="Write TARGET.cbtfs after the restore of a file: it records which content the file "
        "holds, for a later --in-place --from. --state FILE writes it elsewhere.",
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read the target after the restore and compare all digests.",
    ),
]


@dataclass(frozen=True, slots=True)
class InPlaceFlags:
    """The options of a restore in place."""

    is_in_place: bool
    compares: bool
    base: str | None
    state: Path | None
    verifies: bool
    keeps_going: bool

    def are_given(self, names: Sequence[str], others: Sequence[str]) -> bool:
        """Return whether the restore is in place. *others*: options that exclude that.

        Raises:
            UsageError: options contradict each other.
        """
        if not self.is_in_place:
            given = {
                "--compare": self.compares,
                "--from": self.base is not None,
                "--verify": self.verifies,
            }
            for name, is_given in given.items():
                if is_given:
                    raise UsageError(f"{name} needs --in-place")
            return False
        for other in others:
            raise UsageError(f"--in-place and {other} are mutually exclusive")
        if self.compares and self.base is not None:
            raise UsageError("--compare and --from are mutually exclusive")
        if len(names) != 3:
            raise UsageError(f"restore takes POINT DISK TARGET, not {len(names)} arguments")
        if names[2] == "-":
            raise UsageError("--in-place and TARGET - are mutually exclusive")
        return True


def restore_in_place(
    context: typer.Context,
    names: Sequence[str],
    flags: InPlaceFlags,
    clock: ClockContext,
    *,
    is_json: bool,
) -> None:
    """Restore the disk that *names* (POINT, DISK, TARGET) mean, and print the result."""
    from cbtfs.restore.in_place import InPlaceOptions
    from cbtfs.restore.in_place import restore_in_place as apply
    from cbtfs.restore.in_place_target import is_nbd_uri
    from cbtfs.source.nbd_uri import without_secrets
    from cbtfs.store.repository import reading

    target = names[2]
    shown = without_secrets(target) if is_nbd_uri(target) else str(Path(target).absolute())
    started = time.monotonic()
    with reading(readable_path(context)) as repository:
        point, disk = _disk(repository, names[0], names[1], clock)
        base = None if flags.base is None else _base(repository, flags.base, disk, clock)
        with progress(disk.label, disk.size, is_wanted=not is_json) as advance:
            result = apply(
                repository,
                point.manifest.point,
                disk,
                target,
                InPlaceOptions(base, flags.state, flags.verifies, flags.keeps_going, advance),
            )
    seconds = time.monotonic() - started
    if result.bytes_beyond:
        note(f"{shown}: {result.bytes_beyond} bytes after the end of the disk are left alone")
    if is_json:
        emit(_document(point, disk, shown, base, result, seconds))
    else:
        _print(point, disk, shown, result, seconds)
    _explain_loss(result)


def _disk(
    repository: Repository, spec: str, label: str, clock: ClockContext
) -> tuple[Point, DiskRecord]:
    from cbtfs.listing import find_disks, find_points

    points = find_points(repository, spec, clock)
    disks = [(point, disk) for point in points for disk in find_disks(point, label)]
    if len(disks) > 1:
        named = [f"{point.spelled} {disk.label}" for point, disk in disks]
        raise UsageError(
            "--in-place restores one disk at a time; name one of " + ", ".join(named), named
        )
    return disks[0]


def _base(repository: Repository, spec: str, disk: DiskRecord, clock: ClockContext) -> Base:
    from cbtfs.listing import find_disk, find_point
    from cbtfs.restore.in_place import Base

    point = find_point(repository, spec, clock)
    return Base(point.manifest.point, find_disk(point, disk.label), point.spelled)


def _document(
    point: Point,
    disk: DiskRecord,
    target: str,
    base: Base | None,
    result: InPlaceResult,
    seconds: float,
) -> Document:
    from cbtfs.cli.report.documents import of_extent, of_resolved

    return {
        "point": point.manifest.point,
        **of_resolved(point),
        "disk": disk.label,
        "target": target,
        "size": disk.size,
        "from": None if base is None else base.point,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
        "bytes_skipped": result.bytes_skipped,
        "bytes_beyond": result.bytes_beyond,
        "is_verified": result.is_verified,
        "lost": [of_extent(extent) for extent in result.lost],
        "seconds": round(seconds, 3),
    }


def _print(
    point: Point, disk: DiskRecord, target: str, result: InPlaceResult, seconds: float
) -> None:
    if display().is_quiet and not result.lost:
        return
    words = (
        f"{disk.size} bytes, {format_size(result.bytes_written)} written, "
        f"{format_size(result.bytes_skipped)} skipped, {format_size(result.bytes_read)} read"
        f"{', verified' if result.is_verified else ''}, in {seconds:.1f} s"
    )
    lost = [f"lost: {extent.start} {extent.length}" for extent in result.lost]
    print_lines([f"{resolved(point)}, disk {disk.label}", f"{target}: {words}", *lost])


def _explain_loss(result: InPlaceResult) -> None:
    """Raise the error of the lost extents, if there are any."""
    from cbtfs.restore.disk import Restored, explain_loss

    explain_loss(Restored(0, tuple(result.lost), result.loss))
