"""`cbtfs ingest image`: take a restore point of disk images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.arguments import (
    AUDIT,
    Audit,
    Json,
    Level,
    LockWait,
    Threads,
    duration_parser,
    example,
    sampling_of,
)
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.captures import disk_bars, print_point
from cbtfs.cli.report.metrics import MetricsFile, Tally, VmResult, metrics_file
from cbtfs.cli.report.output import emit
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.options.sources import Wishes
    from cbtfs.core.audit import Sampling
    from cbtfs.core.manifest import Manifest, TimeSource
    from cbtfs.ingest.plan import Want
    from cbtfs.store.repository import Repository
    from cbtfs.store.writer import ObjectWriter

_AHEAD: Final = timedelta(minutes=10)
"""How far `--time` may be ahead of the clock: two clocks that are kept right differ by less."""


def add_to(group: typer.Typer) -> None:
    group.command(
        epilog=example(
            "cbtfs ingest image --vm web1 --disk root /var/lib/images/web1.raw",
            "cbtfs ingest image --vm web1 --disk root --changed changed.json web1.raw",
            "cbtfs ingest image --vm db1 --disk root=root.raw --disk data=/dev/vg/data",
            "cbtfs ingest image --vm db2 --disk root nbd+unix:///root?socket=/run/db2.sock",
        )
    )(image)


def image(
    context: typer.Context,
    vm: Annotated[
        str, typer.Option(metavar="V", show_default=False, help="Whose disks these are.")
    ],
    disk: Annotated[
        list[str],
        typer.Option(
            metavar="D",
            show_default=False,
            help="What the disk is called; D=SOURCE where there are several.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            show_default=False,
            help="A raw file, a block device or the URI of an NBD export, if there is one disk "
            "only; - for a file that standard input was redirected from.",
        ),
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="What changed since the disk's last committed point: JSON, "
            '[{"start": n, "length": n}, …] in bytes, or {"since": POINT, "extents": […]}; '
            "D=FILE where there are several disks. Without a list all is compared by digest.",
        ),
    ] = None,
    bitmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="QEMU's dirty bitmap of an NBD export that marks what changed since the disk's "
            "last committed point; D=NAME where there are several disks.",
        ),
    ] = None,
    next_bitmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="The bitmap that starts at the moment that the disk shows: on record, it is the "
            "only one that the next point believes.",
        ),
    ] = None,
    moment: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="T",
            show_default="now",
            help="The moment that the disks show, RFC 3339, such as 2026-11-22T00:15:03Z; at most "
            "ten minutes ahead of the clock. An older one does not become the latest point.",
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read all, whatever is known.")] = False,
    incremental_only: Annotated[
        bool,
        typer.Option(
            "--incremental-only",
            help="Exit with 32 (33 if the audit fails) rather than read a whole disk.",
        ),
    ] = False,
    allow_changing: Annotated[
        bool,
        typer.Option(
            "--allow-changing", help="Commit even if a file changed while it was read: torn."
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
    audit: Audit = AUDIT,
    level: Level = None,
    threads: Threads = None,
    metrics: MetricsFile = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Capture disk images: files, block devices, NBD exports that nobody writes to meanwhile."""
    from cbtfs.cli.options.sources import Wishes, look_at
    from cbtfs.ingest.point import refuse_many
    from cbtfs.source.listed import load_change_list
    from cbtfs.store.repository import writing

    if full and incremental_only:
        raise UsageError("--full and --incremental-only exclude each other: give one")
    when = _when(moment)
    sources = _pairs(disk, source)
    refuse_many(vm, len(sources))
    files = _by_label("--changed", changed or [], list(sources))
    wishes = Wishes(
        {label: load_change_list(Path(file)) for label, file in files.items()},
        _by_label("--bitmap", bitmap or [], list(sources)),
        _by_label("--next-bitmap", next_bitmap or [], list(sources)),
        timeout,
        allow_changing,
    )
    look_at(sources, wishes)
    sampling = sampling_of(audit)
    if allow_changing:
        sampling = None  # what is written meanwhile is in no list: that would be taken for a miss
    want: Want = "full" if full else "incremental" if incremental_only else "auto"
    path = repository_path(context)
    started = time.monotonic()
    tally = Tally("ingest image", chosen=[(vm, "")])
    with metrics_file(metrics, path, tally):
        with writing(path, lock_wait=lock_wait) as repository:
            objects = repository.object_writer(level=level, threads=threads)
            with closing(objects):
                manifest = _take(
                    repository, objects, vm, sources, wishes, when, want, sampling, is_quiet=json
                )
        seconds = time.monotonic() - started
        tally.results.append(VmResult(vm, "", 0, seconds, 1, manifest))
        _report(manifest, seconds, as_json=json)


@dataclass(frozen=True, slots=True)
class _When:
    """The moment that the disks show, and who told it."""

    moment: datetime
    source: TimeSource


def _when(text: str | None) -> _When:
    """What `--time` says, or the clock; UsageError if it is a time that is yet to come."""
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
    """Source by label, from `--disk D SOURCE` or from several `--disk D=SOURCE`."""
    if source is not None:
        if len(disks) != 1:
            raise UsageError("one SOURCE is for one --disk: give --disk D=SOURCE for several")
        return {disks[0]: source}
    pairs = {}
    for disk in disks:
        label, equals, place = disk.partition("=")
        if not equals:
            raise UsageError(f"--disk {disk} has no source: give --disk {disk}=SOURCE")
        if label in pairs:
            raise UsageError(f"disk {label} is given twice")
        pairs[label] = place
    return pairs


def _by_label(option: str, given: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Value by label, from one `OPTION VALUE` or from several `OPTION D=VALUE`."""
    found: dict[str, str] = {}
    for item in given:
        label, equals, value = item.partition("=")
        if not equals or label not in labels:
            if len(labels) != 1:
                raise UsageError(f"{option} {item} is for none of the disks: give D=VALUE")
            label, value = labels[0], item
        if label in found:
            raise UsageError(f"disk {label} has {option} twice")
        found[label] = value
    return found


def _take(
    repository: Repository,
    objects: ObjectWriter,
    vm: str,
    sources: Mapping[str, str],
    wishes: Wishes,
    when: _When,
    want: Want,
    audit: Sampling | None,
    *,
    is_quiet: bool,
) -> Manifest:
    from cbtfs.cli.options.sources import change_id, open_source
    from cbtfs.ingest.point import DiskInput, VmInput, take_point

    with ExitStack() as open_sources, disk_bars(is_wanted=not is_quiet) as announce:
        disks = []
        for label, place in sources.items():
            source = open_source(repository, label, place, wishes)
            open_sources.callback(source.close)
            disks.append(DiskInput(label, source, label, change_id=change_id(label, wishes)))
        return take_point(
            repository,
            objects,
            VmInput(vm),
            disks,
            moment=when.moment,
            time_source=when.source,
            want=want,
            announce=announce,
            audit=audit,
        )


def _report(manifest: Manifest, seconds: float, *, as_json: bool) -> None:
    if as_json:
        from cbtfs.cli.report.documents import of_ingest

        emit(of_ingest(manifest, seconds))
    else:
        print_point(manifest)
