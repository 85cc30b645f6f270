"""The options that every command takes, in front of its name and behind it, at each level.

Typer parses each level of `cbtfs ingest image` by the options of that level. So each level gets
these options, and their callbacks collect the values in the context. The command itself does not
receive them.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from cbtfs.cli.options.arguments import Json
from cbtfs.cli.options.context import (
    set_config,
    set_key_files,
    set_passphrase_files,
    set_progress,
    set_quiet,
    set_repo,
    set_tier_size,
    set_verbose,
)


def _every(
    repo: Annotated[
        Path | None,
        typer.Option(
            "--repo",
            "-r",
            metavar="DIR",
            show_default=False,
            callback=set_repo,
            expose_value=False,
            help="Repository directory (default: $CBTFS_REPO).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            callback=set_config,
            expose_value=False,
            help="Configuration file, TOML (default: $CBTFS_CONFIG, else "
            "~/.config/cbtfs/config.toml).",
        ),
    ] = None,
    key_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            callback=set_key_files,
            expose_value=False,
            help="Key file of an encrypted repository: of cbtfs, or an age identity (default: "
            "$CBTFS_KEY_FILE). Repeat it for several repositories.",
        ),
    ] = None,
    passphrase_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            callback=set_passphrase_files,
            expose_value=False,
            help="File with the passphrase of an encrypted repository on its first line (default: "
            "$CBTFS_PASSPHRASE_FILE).",
        ),
    ] = None,
    tier_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            show_default=False,
            callback=set_tier_size,
            expose_value=False,
            help="Size of the local copies of a repository in a bucket, e.g. 200G (default: "
            "$CBTFS_TIER_SIZE, else 20G).",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            callback=set_quiet,
            expose_value=False,
            help="Print errors, warnings and requested data only: no reports, notes and progress.",
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            callback=set_verbose,
            expose_value=False,
            help="Log the repository, choices and retries to standard error; -vv logs more.",
        ),
    ] = 0,
    progress: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            show_default="auto",
            callback=set_progress,
            expose_value=False,
            help="Form of progress on standard error: auto, json or none.",
        ),
    ] = None,
) -> None:
    """Declare the options; never called."""


def _json(json: Json = False) -> None:
    """Declare --json for groups of commands; never called."""


@cache
def _declared(declaration: Any) -> list[Any]:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(declaration)
    parameters = list(get_command(app).params)
    for parameter in parameters:
        parameter.expose_value = False
    return parameters


def add_everywhere(command: Any) -> None:
    """Give *command*, and each command below it, the options of every command."""
    present = {parameter.name for parameter in command.params}
    for parameter in [*_declared(_json), *_declared(_every)]:
        if parameter.name not in present:
            command.params.append(parameter)
    for child in getattr(command, "commands", {}).values():
        add_everywhere(child)
