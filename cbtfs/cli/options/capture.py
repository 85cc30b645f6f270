"""Options of every command that captures disks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import AUDIT, Audit, Level, Threads, sampling_of
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.core.audit import Sampling
    from cbtfs.ingest.plan import Want

Full = Annotated[
    bool,
    typer.Option("--full", help="Read the whole disk even if a change list is available."),
]
IncrementalOnly = Annotated[
    bool,
    typer.Option(
        "--incremental-only",
        help="Never read a whole disk: exit with 32 instead (33 if the audit fails).",
    ),
]


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How disks are read and stored."""

    full: Full = False
    incremental_only: IncrementalOnly = False
    audit: Audit = AUDIT
    level: Level = None
    threads: Threads = None

    def want(self) -> Want:
        """Return the kind of point to take; UsageError if the options exclude each other."""
        if self.full and self.incremental_only:
            raise UsageError("--full and --incremental-only are mutually exclusive: give one")
        return "full" if self.full else "incremental" if self.incremental_only else "auto"

    def sampling(self) -> Sampling | None:
        """Return the extent of the audit; None for no audit."""
        return sampling_of(self.audit)
