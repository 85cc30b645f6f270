"""Log lines for the journal of systemd: with their gravity, which it files them by."""

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
    """Whether *fd* leads to the journal, which JOURNAL_STREAM of systemd.exec(5) tells."""
    facts = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def gravity(level: int) -> str:
    """What a line of that level starts with."""
    return next((prefix for least, prefix in _GRAVITIES if level >= least), "<7>")
