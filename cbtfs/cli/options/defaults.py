"""Defaults of options from the configuration, as the parser of the command line takes them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final

from cbtfs.config import load_config
from cbtfs.errors import UsageError

_WITHOUT: Final = frozenset({"-h", "--help", "--version"})
"""Options that work with an invalid configuration, too."""
_COMPLETION: Final = "_CBTFS_COMPLETE"
_SUBCOMMANDS: Final = ("image", "vsphere", "status", "enable", "reset")


def option_defaults(
    arguments: Sequence[str], commands: Iterable[str], overrides: Mapping[str, str]
) -> dict[str, Any]:
    """Return the defaults of all options by command and parameter name.

    They are those of the configuration, and *overrides*, which win. UsageError if the
    configuration is invalid.
    """
    if _COMPLETION in os.environ:
        return {}
    try:
        config = load_config(_config_file(arguments), os.environ)
    except UsageError:
        if _WITHOUT.isdisjoint(arguments):
            raise
        return {}
    values = {**config.defaults, **overrides}
    if not values:
        return {}
    with_subcommands = {**values, **dict.fromkeys(_SUBCOMMANDS, values)}
    return dict.fromkeys(commands, with_subcommands)


def _config_file(arguments: Sequence[str]) -> Path | None:
    """Return the value of --config, wherever it is: the command line is not parsed yet."""
    words = list(takewhile(lambda word: word != "--", arguments))
    named = [value for option, value in pairwise(words) if option == "--config"]
    named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return Path(named[-1]) if named and named[-1] else None
