"""One thing that is worth knowing before a backup, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """What a finding means for the backup."""

    BLOCKS = "blocks"
    """There will be no restore point, or not of all that matters."""
    FULL = "full"
    """Disks are read whole, each time."""
    WARNING = "warning"
    INFO = "info"


_ORDER: Final = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in one line, and the fix."""

    check: str
    """A word that stays the same: docs/commands.md lists them."""
    severity: Severity
    text: str
    fix: str
    """Empty where there is nothing to be done."""


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """In order of severity, else as they were found."""
    return sorted(findings, key=lambda each: _ORDER.index(each.severity))


def is_blocked(findings: Iterable[Finding]) -> bool:
    return any(each.severity is Severity.BLOCKS for each in findings)
