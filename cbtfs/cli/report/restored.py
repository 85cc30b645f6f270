"""Disks that `cbtfs restore` is to write or has written: their lines, documents and exit status."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cbtfs.cli.report.display import display
from cbtfs.cli.report.exit_status import most_severe
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import print_lines, say
from cbtfs.core.units import format_size
from cbtfs.errors import CbtfsError, ExitCode

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.manifest import DiskRecord
    from cbtfs.listing import Point
    from cbtfs.restore.disk import Restored


class ImageFormat(enum.StrEnum):
    """Formats that qemu-img writes."""

    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"


@dataclass(frozen=True, slots=True)
class Job:
    """One disk to restore."""

    point: Point
    disk: DiskRecord
    target: Path
    """`-` for standard output."""
    to: ImageFormat | None = None
    """None for raw bytes, which small files always are."""

    @property
    def is_stream(self) -> bool:
        return str(self.target) == "-"

    @property
    def name(self) -> str:
        return f"{self.point.spelled}, disk {self.disk.label}"


@dataclass(frozen=True, slots=True)
class Done:
    """One disk that was restored."""

    job: Job
    restored: Restored
    seconds: float


def conclude(done: Sequence[Done], failed: Sequence[tuple[Job, CbtfsError]]) -> None:
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


def failed_document(job: Job, error: CbtfsError) -> Document:
    from cbtfs.cli.report.documents import of_resolved

    return {
        "point": job.point.manifest.point,
        **of_resolved(job.point),
        "disk": job.disk.label,
        "target": str(job.target.absolute()),
        "exit": error.exit_code,
        "error": str(error),
    }


def warn_of_name(job: Job) -> None:
    """Warn if the target has the name of a format that is not raw."""
    from cbtfs.source.image_format import format_of_name

    found = format_of_name(job.target)
    if found is None or job.disk.kind != "disk" or job.is_stream or job.to is not None:
        return
    if found.qemu in list(ImageFormat):
        advice = f"--to {found.qemu} writes that format"
    else:
        advice = f"'qemu-img convert -f raw -O {found.qemu}' converts a raw file"
    say(f"{job.target}: raw bytes are written, not a {found.name} image; {advice}")


def document(done: Done) -> Document:
    from cbtfs.cli.report.documents import of_extent, of_resolved

    job = done.job
    return {
        "point": job.point.manifest.point,
        **of_resolved(job.point),
        "disk": job.disk.label,
        "target": str(job.target.absolute()),
        "format": job.to or "raw",
        "size": job.disk.size,
        "data_bytes": done.restored.data_bytes,
        "marker": None if done.restored.marker is None else str(done.restored.marker.absolute()),
        "lost": [of_extent(extent) for extent in done.restored.lost],
        "seconds": round(done.seconds, 3),
    }


def print_done(done: Done) -> None:
    if display().is_quiet and not done.restored.lost:
        return
    job, size = done.job, format_size(done.restored.data_bytes)
    words = f"{job.disk.size} bytes, {size} of data, in {done.seconds:.1f} s"
    if done.restored.marker is not None:
        words += f", marker {done.restored.marker}"
    lost = [f"lost: {extent.start} {extent.length}" for extent in done.restored.lost]
    lines = [f"{resolved(job.point)}, disk {job.disk.label}", words, *lost]
    if job.is_stream:
        for line in lines:
            say(line)
    else:
        print_lines([lines[0], f"{job.target}: {words}", *lost])
