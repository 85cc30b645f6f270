"""`cbtfs prune`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cbtfs.cli.options.arguments import DryRun, Json, LockWait, example
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.meter import Unit
from cbtfs.cli.report.output import emit, print_lines, report, say
from cbtfs.cli.report.progress import progress
from cbtfs.core.units import format_size, parse_size
from cbtfs.errors import DataCorrupt, ExitCode, StoreFailed, UsageError

if TYPE_CHECKING:
    from cbtfs.core.ids import PointId
    from cbtfs.prune.result import PruneResult
    from cbtfs.prune.select import PruneLimits
    from cbtfs.store.repository import Repository

_UNITS: Final = {
    "marking": Unit.SHARE,  # sizes of disks, whose maps are walked
    "verifying": Unit.SHARE,
    "dropping": Unit.OBJECTS,
    "rewriting": Unit.BYTES,
}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs prune --dry-run", "cbtfs prune --max-repack 50G"))(prune)


def prune(
    context: typer.Context,
    max_unused: Annotated[
        str,
        typer.Option(
            "--max-unused",
            metavar="PERCENT",
            help="Unused share of the packs to tolerate; a smaller one rewrites more.",
        ),
    ] = "5%",
    max_repack: Annotated[
        str | None,
        typer.Option(
            "--max-repack",
            metavar="SIZE",
            show_default=False,
            help="Maximum size of the packs to rewrite, e.g. 50G; the next prune continues.",
        ),
    ] = None,
    rekey: Annotated[
        bool,
        typer.Option(
            "--rekey", help="Encrypt packs and files of older key epochs again, after a rotation."
        ),
    ] = False,
    dry_run: DryRun = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Reclaim space used by unreferenced objects.

    Unreferenced packs are removed, and packs with unused data are rewritten. Mounts continue to
    work; objects that an open file needs are kept until it is closed. Nothing is removed if an
    object that a restore point needs cannot be found.

    With shared writers, captures continue meanwhile. Packs that a running capture may use are
    removed by a later prune, or by this one if the capture ends within --lock-wait.

    After 'cbtfs key rotate', --rekey encrypts the packs and files of the old key again, as far as
    --max-repack allows. Repeat it until no pack is left.
    """
    from cbtfs.prune.select import PruneLimits
    from cbtfs.store.repository import writing
    from cbtfs.store.reserve import released

    repack = None if max_repack is None else _size(max_repack)
    limits = PruneLimits(_share(max_unused), repack, rekey)
    path = readable_path(context)
    with released(path), writing(path, lock_wait=lock_wait) as repository:
        result = prune_now(
            repository, limits, is_dry_run=dry_run, is_quiet=json, patience=lock_wait
        )
    if json:
        emit(prune_document(result))
    else:
        print_result(result)
    conclude(result)


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    share = float(match[1]) / 100 if match else -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"invalid --max-unused {text!r}: use a percentage, e.g. 5%")
    return share


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise UsageError(f"invalid --max-repack {exc}") from exc


def prune_now(
    repository: Repository,
    limits: PruneLimits | None = None,
    *,
    is_dry_run: bool,
    is_quiet: bool,
    without: Collection[PointId] = (),
    patience: float = 0.0,
) -> PruneResult:
    """Prune, with progress bars on a terminal."""
    from cbtfs.prune.prune import prune as run
    from cbtfs.prune.select import PruneLimits

    return run(
        repository,
        limits or PruneLimits(),
        is_dry_run=is_dry_run,
        without=without,
        start_progress=lambda what, total: progress(
            what, total, is_wanted=not is_quiet, unit=_UNITS[what]
        ),
        patience=patience,
    )


def prune_document(result: PruneResult) -> dict[str, Any]:
    """Return the document of `prune --json`."""
    return {**asdict(result), "damaged": list(result.damaged)}


def print_result(result: PruneResult) -> None:
    """Print the result, unless --quiet is given. A dry run exists to be read."""
    show = print_lines if result.is_dry_run else report
    would = "would be " if result.is_dry_run else ""
    show(
        [
            f"{format_size(result.freed_bytes)} {would}freed of "
            f"{format_size(result.size_before)}: {result.removed_packs} packs {would}removed, "
            f"{format_size(result.rewritten_bytes)} {would}rewritten",
            f"{format_size(result.dead_bytes)} unreferenced, {format_size(result.shared_bytes)} "
            "of forgotten points retained: other points share them",
            f"{format_size(result.unused_bytes)} still unused in packs",
        ]
    )
    if result.rekeyed_files or result.old_packs:
        show(
            [
                f"{result.rekeyed_files} files encrypted again, {result.old_packs} packs of an old "
                "key epoch left"
            ]
        )
    if result.waiting_packs:
        show(
            [
                f"{result.waiting_packs} packs wait for {result.waiting_writers} other writers: "
                "a later prune removes them"
            ]
        )
    if result.leased:
        show([f"{result.leased} forgotten points are open: their objects are kept"])
    for problem in result.damaged:
        say(problem)


def conclude(result: PruneResult) -> None:
    """Report what the prune could not do, and exit with its code.

    21 if objects were unreadable, 3 if free space did not suffice to rewrite packs, 1 if nothing
    was freed for that reason.
    """
    postponed = (
        f"{result.postponed_packs} packs were not rewritten, which would free "
        f"{format_size(result.postponed_bytes)}: not enough free space; make "
        f"{format_size(result.needed_bytes)} free on the repository's file system, "
        "then prune again"
    )
    if result.is_dry_run:
        if result.postponed_packs:
            say(postponed.replace("were not", "would not be"))
        return
    if result.postponed_packs and (result.removed_packs or result.damaged):
        say(postponed)
    if result.damaged:
        raise DataCorrupt("unreadable objects were left in place: run 'cbtfs check --read-data'")
    if result.postponed_packs and not result.removed_packs:
        raise StoreFailed(postponed)
    if result.postponed_packs:
        raise typer.Exit(ExitCode.PARTIAL)
