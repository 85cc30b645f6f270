"""`cbtfs check`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import Json, LockWait, example
from cbtfs.cli.options.context import readable_path, repository_path
from cbtfs.cli.report.display import display
from cbtfs.cli.report.meter import Unit
from cbtfs.cli.report.output import emit, print_lines, say
from cbtfs.cli.report.progress import Advance, progress
from cbtfs.core.units import format_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.check.report import CheckReport, Problem
    from cbtfs.check.subset import Subset
    from cbtfs.cli.report.documents import Document


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs check", "cbtfs check --read-data --json"))(check)


def check(
    context: typer.Context,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read and verify every chunk as well.")
    ] = False,
    subset: Annotated[
        str | None,
        typer.Option(
            "--read-data-subset",
            metavar="PART",
            show_default=False,
            help="Read and verify the chunks of some packs: 5%, 3/10, 10G, or unverified (packs of "
            "capture keys that are not verified yet).",
        ),
    ] = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Verify the repository; list damaged objects and the restore points they affect.

    Packs, catalog, manifests and block maps are verified; chunks only with --read-data or
    --read-data-subset. Nothing is repaired. Corrupt chunks are quarantined, so that the next ingest
    of the same data stores them again. The exit code is 20 if data is missing, 21 if it is corrupt.
    Without a key of an encrypted repository, only checksums of packs and files are verified. What
    capture keys have written is shared by other writers once its chunks were verified.
    """
    from cbtfs.check.check import check as run_check
    from cbtfs.check.outer import check_outer
    from cbtfs.check.record import record
    from cbtfs.check.subset import ALL, NONE
    from cbtfs.store.encryption.ring import can_unlock

    part = _subset(subset)
    path = repository_path(context)
    if read_data or part is not None:
        readable_path(context)
    started = time.monotonic()
    with ExitStack() as bar:

        def start_progress(total: int) -> Advance:
            unit = Unit.BYTES if read_data else Unit.SHARE
            return bar.enter_context(progress("packs", total, is_wanted=not json, unit=unit))

        if has_key := can_unlock(path):
            report = run_check(
                path, read_data=read_data, subset=part, start_progress=start_progress
            )
        else:
            report = check_outer(path, start_progress)
    if has_key:
        record(path, report, part or (ALL if read_data else NONE), lock_wait=lock_wait)
    else:
        say("no key was given: only the checksums of packs and files are verified")
    seconds = time.monotonic() - started
    if json:
        emit(_document(report, seconds))
    elif report.problems or report.unrecorded or not display().is_quiet:
        print_lines(_lines(report, seconds))
    report.raise_worst()


def _subset(text: str | None) -> Subset | None:
    from cbtfs.check.subset import parse_subset

    try:
        return None if text is None else parse_subset(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _document(report: CheckReport, seconds: float) -> Document:
    return {
        "points": report.points,
        "objects": report.objects,
        "chunks_read": report.chunks_read,
        "bytes_read": report.bytes_read,
        "verified": report.verified,
        "quarantined": len(report.corrupt),
        "unrecorded": report.unrecorded,
        "unverified_packs": len(report.unverified),
        "problems": [_of_problem(problem) for problem in report.problems],
        "seconds": round(seconds, 3),
    }


def _of_problem(problem: Problem) -> Document:
    from cbtfs.cli.report.documents import of_extent

    return {
        "kind": problem.kind,
        "what": problem.what,
        "exit": problem.error.exit_code,
        "points": [
            {
                "point": place.point,
                "vm": place.vm,
                "name": place.name,
                "disk": place.disk,
                "extents": [of_extent(extent) for extent in place.extents],
            }
            for place in problem.places
        ],
    }


def _lines(report: CheckReport, seconds: float) -> Iterator[str]:
    harmful = report.harmful
    for problem in report.problems:
        yield f"{problem.kind}: {problem.what}"
        if problem not in harmful:
            yield "  harmless: no restore point needs it, or an intact copy exists"
        for place in problem.places:
            name = report.names.get(place.point, place.vm)
            yield f"  {name}, disk {place.disk} (point {place.point}):"
            for extent in place.extents:
                yield f"    {extent.start} {extent.length}"
    yield from _ages(report)
    if report.unverified:
        yield (
            f"{len(report.unverified)} packs of capture keys are not verified, so other writers "
            "store their data again: run 'cbtfs check --read-data-subset unverified'"
        )
    if report.unrecorded is not None:
        yield f"cannot record the result: {report.unrecorded}"
    yield (
        f"{report.points} points, {report.objects} objects, {report.chunks_read} chunks read "
        f"({format_size(report.bytes_read)}), {len(report.problems)} problems, {seconds:.1f} s"
    )


def _ages(report: CheckReport) -> Iterator[str]:
    """Yield the number of points never verified in full, and the oldest verification."""
    from datetime import UTC, datetime

    from cbtfs.core.moment import parse_moment

    dated = {point: moment for point, moment in report.verified.items() if moment is not None}
    never = len(report.verified) - len(dated)
    if never:
        yield (
            f"{never} of {len(report.verified)} points were never verified in full: "
            "run 'cbtfs check --read-data'"
        )
    if dated:
        oldest = min(dated, key=lambda point: dated[point])
        days = (datetime.now(UTC) - parse_moment(dated[oldest])).days
        if days > 0:
            name = report.names.get(oldest, oldest)
            yield f"oldest full verification: {name}, {days} days ago"
