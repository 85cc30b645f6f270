"""`cbtfs repair` and `cbtfs unlock`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import DryRun, Json, LockWait, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.meter import Unit
from cbtfs.cli.report.output import emit, report, say
from cbtfs.cli.report.progress import Advance, progress
from cbtfs.errors import ChunkMissing, DataCorrupt, ManifestsMissing, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from cbtfs.repair import MissingPoint, Repaired


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example("cbtfs repair --dry-run", "cbtfs repair", "cbtfs repair --restore-manifests")
    )(repair)
    app.command(epilog=example("cbtfs unlock"))(unlock)


def repair(
    context: typer.Context,
    restore_manifests: Annotated[
        bool,
        typer.Option(
            "--restore-manifests",
            help="Write missing manifests back to points/ from the catalog's copies.",
        ),
    ] = False,
    create_markers: Annotated[
        bool,
        typer.Option(
            "--create-markers",
            help="Confirm that points/ and packs/ are this repository's: write their markers.",
        ),
    ] = False,
    dry_run: DryRun = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Rebuild the catalog from packs and manifests, and remove leftovers of a crash.

    The command can be interrupted at any time, and mounts continue to work. Restore points whose
    manifests are missing stay in the catalog. With --restore-manifests, those whose block maps
    resolve completely are listed and written back to points/; make sure first that its file system
    is mounted and that nobody is still copying files to it. --create-markers only writes markers,
    for a repository whose directories have none and whose catalog cannot confirm them.
    """
    from cbtfs.repair import repair as run
    from cbtfs.store.reserve import released

    path = repository_path(context)
    if create_markers:
        if restore_manifests or dry_run:
            raise UsageError("--create-markers takes neither --restore-manifests nor --dry-run")
        _create_markers(path, lock_wait, as_json=json)
        return
    with ExitStack() as stack:

        def start_progress(total: int) -> Advance:
            packs = progress("packs", total, is_wanted=not json, unit=Unit.SHARE)
            return stack.enter_context(packs)

        def on_missing(missing: Sequence[MissingPoint]) -> None:
            if not json:
                report(_missing_lines(missing, will_restore=restore_manifests))

        stack.enter_context(released(path))
        done = run(
            path,
            is_dry_run=dry_run,
            restores_manifests=restore_manifests,
            lock_wait=lock_wait,
            start_progress=start_progress,
            on_missing=on_missing,
        )
    if json:
        emit(asdict(done))
    else:
        report(_lines(done))
    for problem in done.problems:
        say(problem)
    if done.problems:
        raise DataCorrupt(
            "some objects are unreadable; run 'cbtfs check' to list the affected restore points"
        )
    if done.missing and not dry_run:
        raise ManifestsMissing(
            f"points/ lacks the manifests of {len(done.missing)} restore points: put them back "
            "from a copy of points/"
            + ("" if restore_manifests else ", or run 'cbtfs repair --restore-manifests'")
        )
    if done.damaged:
        raise ChunkMissing(
            f"{len(done.damaged)} restore points lack objects: run 'cbtfs check' to list them"
        )


def _create_markers(path: Path, lock_wait: float, *, as_json: bool) -> None:
    from cbtfs.repair import create_markers

    written = create_markers(path, lock_wait=lock_wait)
    if as_json:
        emit({"markers": list(written)})
    else:
        report([f"marker of {folder}/ written" for folder in written] or ["no marker is absent"])


def _missing_lines(missing: Sequence[MissingPoint], *, will_restore: bool) -> Iterator[str]:
    for point in missing:
        manifest = point.manifest
        if point.problem is not None:
            fate = f"cannot be restored: {point.problem}"
        else:
            fate = "will be restored" if will_restore else "can be restored"
        yield f"manifest missing: {manifest.point} {manifest.vm.name} {manifest.name}: {fate}"


def _lines(done: Repaired) -> Iterator[str]:
    yield f"catalog: {done.catalog or 'no damage to its pages'}"
    yield f"{done.leftovers} partial files of a crash"
    if done.is_dry_run:
        yield f"would be rebuilt from {done.packs} packs and {done.points} manifests"
    else:
        yield f"rebuilt from {done.packs} packs: {done.objects} objects, {done.points} points"
        if done.nodes_mended:
            yield f"{done.nodes_mended} corrupt or missing nodes of block maps rewritten"
        if done.nodes_left_out:
            yield f"{done.nodes_left_out} nodes of block maps are lost"
    if done.restored:
        would = "would be " if done.is_dry_run else ""
        yield f"{len(done.restored)} manifests {would}restored to points/"


def unlock(context: typer.Context, json: Json = False) -> None:
    """Clear the lock of a writer that died.

    The catalog is verified first. If the writer is alive, it is named, and the exit code is 11.
    """
    from cbtfs.repair import unlock as run

    left = run(repository_path(context))
    if json:
        emit({"left_by": left})
    else:
        report([f"lock of {left} cleared" if left else "not locked"])
