"""`cbtfs repair` and `cbtfs unlock`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from cbtfs.cli.arguments import DryRun, Json, LockWait, example
from cbtfs.cli.context import repository_path
from cbtfs.cli.output import Advance, emit, print_lines, progress, say
from cbtfs.errors import ChunkMissing, DataCorrupt

if TYPE_CHECKING:
    from cbtfs.repair import Repaired


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs repair --dry-run", "cbtfs repair"))(repair)
    app.command(epilog=example("cbtfs unlock"))(unlock)


def repair(
    context: typer.Context, dry_run: DryRun = False, lock_wait: LockWait = 0.0, json: Json = False
) -> None:
    """Rebuild the catalog from packs and manifests alone; clear away what a crash left.

    It may be interrupted at any time. Mounts go on.
    """
    from cbtfs.repair import repair as run
    from cbtfs.store.reserve import released

    path = repository_path(context)
    with ExitStack() as stack:

        def announce(total: int) -> Advance:
            return stack.enter_context(progress("packs", total, is_wanted=not json))

        stack.enter_context(released(path))
        done = run(path, is_dry_run=dry_run, lock_wait=lock_wait, announce=announce)
    if json:
        emit(asdict(done))
    else:
        print_lines(_lines(done))
    for problem in done.problems:
        say(problem)
    if done.problems:
        raise DataCorrupt("not everything could be read: run check to see whom that hurts")
    if done.damaged:
        raise ChunkMissing(
            f"objects are missing that {len(done.damaged)} points need: run check to see which"
        )


def _lines(done: Repaired) -> Iterator[str]:
    yield f"catalog: {done.catalog or 'no damage to its pages'}"
    yield f"{done.leftovers} files that a crash left half written"
    if done.is_dry_run:
        yield f"would be rebuilt from {done.packs} packs and {done.points} manifests"
    else:
        yield f"rebuilt from {done.packs} packs: {done.objects} objects, {done.points} points"
        if done.nodes_mended:
            yield f"{done.nodes_mended} nodes of block maps were bad in their packs: stored anew"
        if done.nodes_left_out:
            yield f"{done.nodes_left_out} nodes of block maps cannot be had"


def unlock(context: typer.Context, json: Json = False) -> None:
    """Clear what a dead writer left in the lock; say who holds it if one is alive."""
    from cbtfs.repair import unlock as run

    left = run(repository_path(context))
    if json:
        emit({"left_by": left})
    else:
        print_lines([f"left behind by {left}: cleared" if left else "not locked"])
