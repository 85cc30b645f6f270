"""What became of several VMs: failures kept apart, and one exit code for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from cbtfs.cli.report.output import say
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt, ExitCode

Failed = Sequence[tuple[str, CbtfsError]]
"""Names of VMs, and why each failed."""


def failed_documents(failed: Failed) -> list[dict[str, Any]]:
    """The member `failed` of a document."""
    return [{"vm": name, "exit": error.exit_code, "error": str(error)} for name, error in failed]


def conclude(failed: Failed, *, is_any_done: bool, is_whole: bool) -> None:
    """Say what failed, and end with the code for it.

    3 if some of it was done, the code of what failed if nothing was. *is_whole* says that of what
    was done nothing is amiss.
    """
    for name, error in failed:
        say(f"{name}: {error}")
    if failed and not is_any_done:
        raise typer.Exit(_gravest([error for _, error in failed]))
    if failed or not is_whole:
        raise typer.Exit(ExitCode.PARTIAL)


def _gravest(errors: Sequence[CbtfsError]) -> int:
    for kind in (DataCorrupt, ChunkMissing):
        if any(isinstance(error, kind) for error in errors):
            return kind.exit_code
    return errors[0].exit_code
