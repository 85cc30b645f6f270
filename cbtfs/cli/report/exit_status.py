"""Exit status of a command for several VMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from cbtfs.cli.report.output import say
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt, ExitCode

Failed = Sequence[tuple[str, CbtfsError]]
"""Names of VMs, and the error of each."""


def failed_documents(failed: Failed) -> list[dict[str, Any]]:
    """Return the member `failed` of a document."""
    return [{"vm": name, "exit": error.exit_code, "error": str(error)} for name, error in failed]


def conclude(failed: Failed, *, is_any_done: bool, is_whole: bool) -> None:
    """Print the failures, and exit with their code.

    The code is 3 if some VMs succeeded, else that of the failures. *is_whole*: all successful
    ones are complete.
    """
    for name, error in failed:
        say(f"{name}: {error}")
    if failed and not is_any_done:
        raise typer.Exit(most_severe([error for _, error in failed]))
    if failed or not is_whole:
        raise typer.Exit(ExitCode.PARTIAL)


def most_severe(errors: Sequence[CbtfsError]) -> int:
    """Return the exit code of several errors: 21 wins over 20, and 20 over that of the first."""
    for kind in (DataCorrupt, ChunkMissing):
        if any(isinstance(error, kind) for error in errors):
            return kind.exit_code
    return errors[0].exit_code
