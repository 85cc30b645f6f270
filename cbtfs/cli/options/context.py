"""Options that precede the command, and the repository that they select."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import typer

from cbtfs.errors import DataCorrupt, UsageError

if TYPE_CHECKING:
    from cbtfs.config import Config


@dataclass(frozen=True, slots=True)
class Options:
    """Values of the options of `cbtfs` itself."""

    repo: Path | None = None
    config: Path | None = None


def global_arguments(context: typer.Context) -> list[str]:
    """Return the options in front of the command, for another command."""
    options = cast(Options, context.obj)
    repo = [] if options.repo is None else ["--repo", str(options.repo)]
    return repo if options.config is None else [*repo, "--config", str(options.config)]


def configuration(context: typer.Context) -> Config:
    """Return the configuration of --config, CBTFS_CONFIG or the default file; UsageError if bad."""
    import os

    from cbtfs.config import load_config

    return load_config(cast(Options, context.obj).config, os.environ)


_FAULT: Final = (
    b"cbtfs: catalog unusable: a page cannot be read or is corrupt; run 'cbtfs repair', then "
    b"repeat the command; if that does not help, this is a bug\n"
)
"""LMDB maps the catalog without checksums. A corrupt page can end in abort() or in a memory fault,
where Python cannot raise an exception."""


def repository_path(context: typer.Context) -> Path:
    """Return the directory that --repo, CBTFS_REPO or the configuration names, in this order.

    UsageError if none does. The directory is not opened. From now on a fault in the catalog's
    memory map ends the process with a message and the exit code of corrupt data.
    """
    from cbtfs.native import exit_on_fault

    exit_on_fault(_FAULT, DataCorrupt.exit_code)
    options = cast(Options, context.obj)
    if options.repo is not None:
        return options.repo
    repo = configuration(context).repo
    if repo is None:
        raise UsageError(
            "no repository given: use --repo DIR before the command, or set CBTFS_REPO"
        )
    return repo
