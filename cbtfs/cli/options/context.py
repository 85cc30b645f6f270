"""Options of every command, and the repository that they select."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from errno import ENOMEM
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import typer

from cbtfs.cli.report.display import Display, ProgressMode, use_display
from cbtfs.errors import DataCorrupt, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cbtfs.config import BucketOptions, Config

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Values of the options that every command has, in any position."""

    repo: Path | None = None
    config: Path | None = None
    key_files: tuple[Path, ...] = ()
    passphrase_files: tuple[Path, ...] = ()
    tier_size: str | None = None
    is_json: bool = False
    display: Display = field(default_factory=Display)


def options_of(context: typer.Context) -> Options:
    """Return the options that are parsed so far, in front of the command and behind it."""
    return cast(Options, context.obj) if context.obj is not None else Options()


def _set(context: typer.Context, **values: Any) -> None:
    """Keep *values* for this context and those of its subcommands."""
    context.obj = replace(options_of(context), **values)


def set_repo(context: typer.Context, value: Path | None) -> None:
    """Keep --repo; the last one on the command line counts."""
    if value is not None:
        _set(context, repo=value)


def set_config(context: typer.Context, value: Path | None) -> None:
    """Keep --config; the last one on the command line counts."""
    if value is not None:
        _set(context, config=value)


def set_key_files(context: typer.Context, value: list[Path] | None) -> None:
    """Keep --key-file; several are tried in turn."""
    if value:
        known = options_of(context).key_files
        _set(context, key_files=(*known, *(file for file in value if file not in known)))


def set_passphrase_files(context: typer.Context, value: list[Path] | None) -> None:
    """Keep --passphrase-file; several are tried in turn."""
    if value:
        known = options_of(context).passphrase_files
        _set(context, passphrase_files=(*known, *(file for file in value if file not in known)))


def set_tier_size(context: typer.Context, value: str | None) -> None:
    """Keep --tier-size, the last one; UsageError if it is not a size."""
    if value is None:
        return
    from cbtfs.core.units import parse_size

    try:
        parse_size(value)
    except ValueError as exc:
        raise UsageError(f"invalid --tier-size {exc}") from exc
    _set(context, tier_size=value)


def set_json(context: typer.Context, value: bool) -> bool:
    """Keep --json, and return whether it was given here or further left."""
    if value:
        _set(context, is_json=True)
    return options_of(context).is_json


def set_quiet(context: typer.Context, value: bool) -> None:
    """Keep --quiet. UsageError if --verbose is given, too."""
    _show(context, is_quiet=options_of(context).display.is_quiet or bool(value))


def set_verbose(context: typer.Context, value: int) -> None:
    """Add up --verbose. UsageError if --quiet is given, too."""
    _show(context, verbosity=options_of(context).display.verbosity + (value or 0))


def set_progress(context: typer.Context, value: str | None) -> None:
    """Keep --progress; UsageError if it is no form of progress."""
    if value is None:
        return
    try:
        _show(context, progress=ProgressMode(value))
    except ValueError as exc:
        raise UsageError(
            f"unknown --progress {value!r}: use one of {', '.join(ProgressMode)}"
        ) from exc


def _show(context: typer.Context, **values: Any) -> None:
    display = replace(options_of(context).display, **values)
    if display.is_quiet and display.verbosity:
        raise UsageError("--quiet and --verbose are mutually exclusive: give one")
    _set(context, display=display)
    use_display(display)


def global_arguments(context: typer.Context) -> list[str]:
    """Return the options of every command, without --json, as arguments for another command."""
    options = options_of(context)
    display = options.display
    arguments = [] if options.repo is None else ["--repo", str(options.repo)]
    arguments += [] if options.config is None else ["--config", str(options.config)]
    arguments += [word for file in options.key_files for word in ("--key-file", str(file))]
    for file in options.passphrase_files:
        arguments += ["--passphrase-file", str(file)]
    arguments += [] if options.tier_size is None else ["--tier-size", options.tier_size]
    arguments += ["--quiet"] if display.is_quiet else ["--verbose"] * display.verbosity
    return [*arguments, "--progress", display.progress.value]


def configuration(context: typer.Context) -> Config:
    """Return the configuration of --config, CBTFS_CONFIG or the default file; UsageError if bad."""
    from cbtfs.config import load_config

    return load_config(options_of(context).config, os.environ)


_VARIABLE: Final = "CBTFS_REPO"
_FAULT: Final = (
    b"cbtfs: catalog unusable: a page cannot be read or is corrupt; run 'cbtfs repair', then "
    b"repeat the command; if that does not help, this is a bug\n"
)
"""LMDB maps the catalog without checksums. A corrupt page can end in abort() or in a memory fault,
where Python cannot raise an exception."""


def readable_path(context: typer.Context) -> Path:
    """Return repository_path(); KeyUnavailable if the key given for it cannot read content."""
    from cbtfs.store.encryption.ring import require_content

    path = repository_path(context)
    require_content(path)
    return path


def repository_path(context: typer.Context, *, is_new: bool = False) -> Path:
    """Return the directory that --repo, CBTFS_REPO or the configuration names, in this order.

    UsageError if none does. The directory is not opened. Of a repository in a bucket, it is that of
    the local state, which is made if necessary; one that *is_new* need not exist in the bucket.
    From now on a fault in the catalog's memory map ends the process with a message and the exit
    code of corrupt data.
    """
    from cbtfs.native import exit_on_fault
    from cbtfs.shortage import explain
    from cbtfs.store.encryption.credentials import Credentials, use

    out_of_memory = f"cbtfs: {explain(ENOMEM)}\n".encode()
    exit_on_fault(_FAULT, DataCorrupt.exit_code, out_of_memory, ExitCode.FAILURE)
    options = options_of(context)
    config = configuration(context)
    keys = config.keys
    use(
        Credentials(options.key_files, options.passphrase_files),
        Credentials(keys.key_files, keys.passphrase_files, keys.command),
    )
    os.environ.update(bucket_variables(options.tier_size, config.bucket, os.environ))
    if options.repo is not None:
        log.info("repository %s, from --repo", options.repo)
        return located(options.repo, is_new=is_new)
    if config.repo is None:
        raise UsageError("no repository given: use --repo DIR, or set CBTFS_REPO")
    origin = _VARIABLE if os.environ.get(_VARIABLE) else str(config.file)
    log.info("repository %s, from %s", config.repo, origin)
    return located(config.repo, is_new=is_new)


def bucket_variables(
    tier_size: str | None, configured: BucketOptions, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of buckets that options and configuration add to *environment*.

    An option wins over a variable, and that over the configuration. Variables reach the processes
    of a mount, too (process.repository_environment).
    """
    from cbtfs.store.backend.remote import TIER_VARIABLE

    values = {
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"): configured.endpoint,
        ("AWS_REGION", "AWS_DEFAULT_REGION"): configured.region,
        (TIER_VARIABLE,): configured.tier_size,
    }
    added = {
        names[0]: value
        for names, value in values.items()
        if value is not None and not any(map(environment.get, names))
    }
    return added if tier_size is None else {**added, TIER_VARIABLE: tier_size}


def located(path: Path, *, is_new: bool = False) -> Path:
    """Return the local directory of a repository: *path*, or that of the state of a bucket.

    Raises:
        UsageError: the address of the bucket is invalid.
        RepositoryNotFound: the bucket has no repository there, and it is not one that *is_new*.
    """
    from cbtfs.store.backend.remote import address_in, attach, name_bucket, state_directory
    from cbtfs.store.storing import storing

    url = address_in(path)
    if url is None:
        return path
    state = state_directory(url, os.environ)
    with storing(f"the local state of {url}"):
        if is_new:
            name_bucket(state, url)
        else:
            attach(state, url)
    return state
