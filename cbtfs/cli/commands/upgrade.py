"""`cbtfs upgrade`."""

from typing import Annotated

import typer

from cbtfs.cli.options.arguments import Json, LockWait, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.report.output import emit, report
from cbtfs.errors import UsageError


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs upgrade --shared-writers"))(upgrade)


def upgrade(
    context: typer.Context,
    shared_writers: Annotated[
        bool,
        typer.Option(
            "--shared-writers",
            help="Allow several programs to write at once; prune runs at the same time.",
        ),
    ] = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Add a feature to a repository.

    With --shared-writers, several programs can write to the repository at once, and prune runs at
    the same time. This cannot be undone: versions of cbtfs without the feature refuse the
    repository, also commands that are waiting for its lock. Running mounts of such versions
    continue to work. The file system must be local. The next command that writes completes an
    interrupted upgrade.
    """
    from cbtfs.store.backend.remote import remote_of
    from cbtfs.store.repository import writing
    from cbtfs.store.settings import load_settings
    from cbtfs.store.shared.upgrade import share

    if not shared_writers:
        raise UsageError("name a feature to add: --shared-writers")
    path = repository_path(context)
    settings = load_settings(path)
    with writing(path, lock_wait=lock_wait) as repository:
        is_changed = repository.shared is None
        if is_changed:
            share(repository)
    if json:
        emit(
            {
                "repository": str(remote_of(path) or path.absolute()),
                "id": settings.id,
                "shared_writers": True,
                "changed": is_changed,
            }
        )
    else:
        state = "now has" if is_changed else "already has"
        report([f"repository {settings.id} {state} shared writers"])
