"""What the options before the command say, kept for the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import typer

from cbtfs.errors import DataCorrupt, UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `cbtfs` itself."""

    repo: Path | None = None
    config: Path | None = None


_FAULT: Final = (
    b"cbtfs: a page of the catalog cannot be read, or is not what it should be: "
    b"run 'cbtfs repair', then this again; if that does not help, this is a bug\n"
)
"""LMDB maps the catalog, and does not check its pages: damage there can be an abort() of its own
or a fault of memory, where no exception can be raised."""


def repository_path(context: typer.Context) -> Path:
    """The repository that --repo, CBTFS_REPO or the configuration names, in this order.

    UsageError if none does. Whether there is one is found out when it is opened. From here on a
    process that is ended by a damaged catalog says so, and ends with the exit code of that.
    """
    from cbtfs.native import exit_on_fault

    exit_on_fault(_FAULT, DataCorrupt.exit_code)
    options = cast(Options, context.obj)
    if options.repo is not None:
        return options.repo
    import os

    from cbtfs.config import load_config

    repo = load_config(options.config, os.environ).repo
    if repo is None:
        raise UsageError("no repository named: give --repo DIR before the command, or CBTFS_REPO")
    return repo
