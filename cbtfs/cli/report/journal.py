"""Log lines for the journal of systemd, with priority prefixes."""

import logging
import os
from typing import Final

_GRAVITIES: Final = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
)
"""sd-daemon(3)"""


def is_journal(fd: int) -> bool:
    """Return whether *fd* is connected to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    facts = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def gravity(level: int) -> str:
    """Return the prefix of a line of that level."""
    return next((prefix for least, prefix in _GRAVITIES if level >= least), "<7>")
