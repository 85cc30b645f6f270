"""`cbtfs unforget`: bring forgotten restore points back."""

from __future__ import annotations

from typing import Annotated

import typer

from cbtfs.cli.options.arguments import Json, LockWait, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, report


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example("cbtfs unforget web01@2026-11-22T00-15-03Z", "cbtfs unforget 5f0c2a91")
    )(unforget)


def unforget(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="POINT…",
            show_default=False,
            help="Forgotten points, by exact time or the start of an id.",
        ),
    ],
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Bring forgotten restore points back.

    A forgotten point can be brought back until a prune removes its data. All block maps are
    resolved first: if an object is gone, nothing changes, and the exit code is 21. A name that no
    forgotten point has is refused with a list of the forgotten points.
    """
    from cbtfs.store.repository import writing
    from cbtfs.unforget import unforget as run

    with writing(repository_path(context), lock_wait=lock_wait) as repository:
        points = run(repository, names)
    if json:
        from cbtfs.cli.report.documents import of_resolved

        emit({"points": [{"id": p.manifest.point, **of_resolved(p)} for p in points]})
    else:
        report(f"{resolved(point)} is back" for point in points)
