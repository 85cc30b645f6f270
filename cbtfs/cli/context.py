"""What the options before the command say, kept for the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import typer

from cbtfs.errors import UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `cbtfs` itself."""

    repo: Path | None = None
    config: Path | None = None


def repository_path(context: typer.Context) -> Path:
    """The repository that --repo, CBTFS_REPO or the configuration names, in this order.

    UsageError if none does. Whether there is one is found out when it is opened.
    """
    options = cast(Options, context.obj)
    if options.repo is not None:
        return options.repo
    import os

    from cbtfs.config import load_config

    repo = load_config(options.config, os.environ).repo
    if repo is None:
        raise UsageError("no repository named: give --repo DIR before the command, or CBTFS_REPO")
    return repo
