"""How much the running command prints. The options of the command line set it once."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ProgressMode(StrEnum):
    """Form of progress on standard error."""

    AUTO = "auto"
    """A bar on a terminal, else a line a minute; nothing with --json."""
    JSON = "json"
    """A JSON document per line, at most one a second."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Display:
    """Values of --quiet, --verbose and --progress."""

    is_quiet: bool = False
    verbosity: int = 0
    """Number of --verbose: 1 logs retries and choices, 2 also details for bug reports."""
    progress: ProgressMode = ProgressMode.AUTO


_LEVELS: Final = (logging.NOTSET, logging.INFO, logging.DEBUG)
"""Levels of the logger of cbtfs by verbosity. Loggers of libraries keep the level of the root.

--quiet has no level: warnings are always logged.
"""
_current = Display()


def use_display(display: Display) -> None:
    """Make *display* that of the process."""
    global _current
    _current = display
    level = _LEVELS[min(display.verbosity, len(_LEVELS) - 1)]
    logging.getLogger("cbtfs").setLevel(level)


def display() -> Display:
    """Return the display of the process."""
    return _current
