"""`cbtfs ingest image`: take a restore point of disk images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.arguments import Json, LockWait, duration_parser, example
from cbtfs.cli.options.capture import CaptureOptions
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.groups import expand_groups
from cbtfs.cli.report.captures import print_point
from cbtfs.cli.report.metrics import MetricsFile, RunCounts, VmResult, metrics_file
from cbtfs.cli.report.output import emit
from cbtfs.cli.report.progress import captures
from cbtfs.errors import PointNotFound, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.options.sources import SourceOptions
    from cbtfs.core.manifest import Manifest, TimeSource
    from cbtfs.ingest.baseline import NamedBase
    from cbtfs.ingest.inputs import PointOptions
    from cbtfs.store.repository import Repository
    from cbtfs.store.writer import ObjectWriter

_CAPTURE: Final = CaptureOptions()
_AHEAD: Final = timedelta(minutes=10)
"""Maximum lead of `--time` over the clock. Synchronized clocks differ by less."""


def add_to(group: typer.Typer) -> None:
    group.command(
        epilog=example(
            "cbtfs ingest image --vm web1 --disk root /var/lib/images/web1.raw",
            "cbtfs ingest image --vm web1 --disk root --changed changed.json web1.raw",
            "cbtfs ingest image --vm web1 --disk root --base web1@2026-11-20T0015 "
            "--changed changed.json web1.raw",
            "cbtfs ingest image --vm db1 --disk root=root.raw --disk data=/dev/vg/data",
            "cbtfs ingest image --vm db2 --disk root nbd+unix:///root?socket=/run/db2.sock",
        )
    )(expand_groups(image))


def image(
    context: typer.Context,
    vm: Annotated[
        str,
        typer.Option(
            metavar="V", show_default=False, help="Name of the VM that the disks belong to."
        ),
    ],
    disk: Annotated[
        list[str],
        typer.Option(
            metavar="D",
            show_default=False,
            help="Label of the disk; D=SOURCE for several disks.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            show_default=False,
            help="Raw file, block device or URI of an NBD export of the only disk; - for a file "
            "redirected to standard input.",
        ),
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Change list since the last committed point of the disk, as JSON: "
            '[{"start": n, "length": n}, …] in bytes, or {"since": POINT, "extents": […]}; '
            "D=FILE for several disks. Without a list, the whole disk is read.",
        ),
    ] = None,
    bitmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="QEMU dirty bitmap of the NBD export, with the changes since the last committed "
            "point of the disk; D=NAME for several disks.",
        ),
    ] = None,
    next_bitmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="QEMU dirty bitmap that starts at this point; the next point trusts no other.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="POINT",
            show_default="the last committed point of each disk",
            help="Point of the VM that the change lists or bitmaps are relative to, by its exact "
            "name or id. If it cannot be the base, the whole disk is read.",
        ),
    ] = None,
    moment: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="T",
            show_default="now",
            help="Time of the disks' content, RFC 3339, e.g. 2026-11-22T00:15:03Z; at most ten "
            "minutes ahead of the clock. An older one does not become the latest point.",
        ),
    ] = None,
    allow_changing: Annotated[
        bool,
        typer.Option(
            "--allow-changing", help="Commit a torn point if a file changes during the capture."
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Capture the bytes of a file as a raw disk even if it looks like a qcow2, VMDK, "
            "VHD or VHDX.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="T",
            parser=duration_parser(0.1),
            help="Maximum time without an answer from an NBD server: 90s, 30m, 4h or 1d.",
        ),
    ] = 60.0,
    capture: CaptureOptions = _CAPTURE,
    metrics: MetricsFile = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Take a restore point of disk images: files, block devices or NBD exports.

    Nobody may write to the images meanwhile: a file that changes fails the capture with exit code
    33. With a change list or a bitmap only the changed blocks are read; otherwise the whole disk is
    read and only new chunks are stored. A file that looks like a qcow2, VMDK, VHD or VHDX is
    refused as the first image of a disk: qemu-nbd serves its content. At later points it is only
    reported, because a guest can write such bytes.
    """
    from cbtfs.cli.options.sources import SourceOptions, check_sources
    from cbtfs.ingest.inputs import PointOptions
    from cbtfs.ingest.point import refuse_many
    from cbtfs.source.listed import load_change_list
    from cbtfs.store.repository import writing

    want = capture.want()
    when = _when(moment)
    sources = _pairs(disk, source)
    refuse_many(vm, len(sources))
    files = _by_label("--changed", changed or [], list(sources))
    options = SourceOptions(
        {label: load_change_list(Path(file)) for label, file in files.items()},
        _by_label("--bitmap", bitmap or [], list(sources)),
        _by_label("--next-bitmap", next_bitmap or [], list(sources)),
        timeout,
        allow_changing,
        raw,
    )
    check_sources(sources, options)
    # Writes after the change list was made would look like missed changes.
    sampling = None if allow_changing else capture.sampling()
    point = PointOptions(when.moment, want, sampling, time_source=when.source)
    images = _Images(vm, sources, options, point, base)
    path = repository_path(context)
    started = time.monotonic()
    counts = RunCounts("ingest image", chosen=[(vm, "")])
    with metrics_file(metrics, path, counts):
        with writing(path, lock_wait=lock_wait) as repository:
            objects = repository.object_writer(level=capture.level, threads=capture.threads)
            with closing(objects):
                manifest = _ingest(repository, objects, images, is_quiet=json)
        seconds = time.monotonic() - started
        counts.results.append(VmResult(vm, "", 0, seconds, 1, manifest))
        _report(manifest, seconds, as_json=json)


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of a VM, and the options of its point."""

    vm: str
    sources: Mapping[str, str]
    """Files or URIs by label of the disk."""
    source_options: SourceOptions
    point_options: PointOptions
    base: str | None
    """Name of the base."""


@dataclass(frozen=True, slots=True)
class _When:
    """The time of the disks' content, and the origin of that time."""

    moment: datetime
    source: TimeSource


def _when(text: str | None) -> _When:
    """Return the time of `--time`, or of the clock; UsageError if it is in the future."""
    from cbtfs.core.moment import format_moment, parse_moment

    now = datetime.now(UTC)
    if text is None:
        return _When(now.replace(microsecond=0), "clock")
    try:
        moment = parse_moment(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    if moment > now + _AHEAD:
        clock = format_moment(now.replace(microsecond=0))
        raise UsageError(
            f"--time {text} is more than ten minutes ahead of the clock, which shows {clock}: "
            "correct it, or set the clock"
        )
    return _When(moment, "given")


def _pairs(disks: Sequence[str], source: str | None) -> dict[str, str]:
    """Return sources by label, from `--disk D SOURCE` or from several `--disk D=SOURCE`."""
    if source is not None:
        if len(disks) != 1:
            raise UsageError(
                "SOURCE belongs to a single --disk: use --disk D=SOURCE for several disks"
            )
        return {disks[0]: source}
    pairs = {}
    for disk in disks:
        label, equals, place = disk.partition("=")
        if not equals:
            raise UsageError(f"--disk {disk} has no source: use --disk {disk}=SOURCE")
        if label in pairs:
            raise UsageError(f"disk {label} is given twice")
        pairs[label] = place
    return pairs


def _by_label(option: str, given: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return values by label, from one `OPTION VALUE` or from several `OPTION D=VALUE`."""
    values: dict[str, str] = {}
    for item in given:
        label, equals, value = item.partition("=")
        if not equals or label not in labels:
            if len(labels) != 1:
                raise UsageError(f"{option} {item} names none of the disks: use D=VALUE")
            label, value = labels[0], item
        if label in values:
            raise UsageError(f"disk {label} has {option} twice")
        values[label] = value
    return values


def _ingest(
    repository: Repository, objects: ObjectWriter, images: _Images, *, is_quiet: bool
) -> Manifest:
    """Take and commit the point."""
    from cbtfs.cli.options.sources import change_id, open_source
    from cbtfs.ingest.inputs import DiskInput, VmInput
    from cbtfs.ingest.point import ingest_point

    options, vm = images.source_options, images.vm
    with ExitStack() as open_sources, captures(is_wanted=not is_quiet, is_serial=True) as start:
        disks = []
        for label, location in images.sources.items():
            source = open_source(repository, vm, label, location, options)
            open_sources.callback(source.close)
            disks.append(DiskInput(label, source, label, change_id=change_id(label, options)))
        point_options = replace(
            images.point_options,
            on_disk=lambda label, size: start(f"{vm} {label}", size),
            base=None if images.base is None else _named_base(repository, images.base),
        )
        return ingest_point(repository, objects, VmInput(vm), disks, point_options)


def _named_base(repository: Repository, name: str) -> NamedBase:
    """Return the base that *name* means; a point that is not there causes a full, no error.

    Raises:
        UsageError: the name may mean another point at another time.
    """
    from cbtfs.ingest.baseline import NamedBase
    from cbtfs.listing import find_exact_point

    try:
        return NamedBase(name, find_exact_point(repository, name).manifest.point)
    except PointNotFound as exc:
        return NamedBase(name, None, str(exc))


def _report(manifest: Manifest, seconds: float, *, as_json: bool) -> None:
    if as_json:
        from cbtfs.cli.report.documents import of_ingest

        emit(of_ingest(manifest, seconds))
    else:
        print_point(manifest)
