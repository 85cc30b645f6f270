"""Defaults of options from the configuration, as the parser of the command line takes them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final

from cbtfs.config import load_config
from cbtfs.errors import UsageError

_WITHOUT: Final = frozenset({"-h", "--help", "--version"})
"""Options that work with an invalid configuration, too."""
_COMPLETION: Final = "_CBTFS_COMPLETE"
_SUBCOMMANDS: Final = (
    *("image", "vsphere", "status", "enable", "reset"),
    *("create", "start", "boot", "stop", "list", "commit", "discard"),
    *("ls", "stat", "cat", "find", "extract", "diff", "log", "index"),
    *("add", "remove", "passwd", "rotate", "test"),
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """Defaults of a job, which win over those of [defaults]."""

    table: str
    """Table of the configuration, e.g. `job.nightly`."""
    values: Mapping[str, str]
    """Values by parameter name."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults of options, and the tables that set them."""

    values: Mapping[str, str] = field(default_factory=dict)
    """Values by parameter name, e.g. `lock_wait`."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """Tables of the configuration by parameter name."""
    file: Path | None = None

    def by_command(self, commands: Iterable[str]) -> dict[str, Any]:
        """Return the values as the parser takes them: by command, and by subcommand."""
        if not self.values:
            return {}
        with_subcommands = {**self.values, **dict.fromkeys(_SUBCOMMANDS, self.values)}
        return dict.fromkeys(commands, with_subcommands)

    def origin(self, message: str, arguments: Sequence[str]) -> str:
        """Return the table that set an option of *message*, if *arguments* did not; else ""."""
        for name, table in self.tables.items():
            option = f"--{name.replace('_', '-')}"
            words = [word.partition("=")[0] for word in _before_dashes(arguments)]
            value = f"{name.replace('_', ' ')} {self.values[name]!r}"  # "time zone 'Mars'"
            is_named = re.search(rf"{option}(?![\w-])", message) or value in message
            if is_named and option not in words:
                return f"[{table}] of {self.file}"
        return ""


def option_defaults(arguments: Sequence[str], overrides: Overrides | None) -> Defaults:
    """Return the defaults of all options: those of the configuration, and *overrides*, which win.

    UsageError if the configuration is invalid.
    """
    if _COMPLETION in os.environ:
        return Defaults()
    try:
        config = load_config(_config_file(arguments), os.environ)
    except UsageError:
        if _WITHOUT.isdisjoint(arguments):
            raise
        return Defaults()
    values, tables = dict(config.defaults), dict.fromkeys(config.defaults, "defaults")
    if overrides is not None:
        values |= overrides.values
        tables |= dict.fromkeys(overrides.values, overrides.table)
    return Defaults(values, tables, config.file)


def _config_file(arguments: Sequence[str]) -> Path | None:
    """Return the value of --config, wherever it is: the command line is not parsed yet."""
    words = _before_dashes(arguments)
    named = [value for option, value in pairwise(words) if option == "--config"]
    named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return Path(named[-1]) if named and named[-1] else None


def _before_dashes(arguments: Sequence[str]) -> list[str]:
    """Return the arguments in front of `--`, which may be options."""
    return list(takewhile(lambda word: word != "--", arguments))
