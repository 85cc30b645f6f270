"""Findings: obstacles to a backup and other facts to know before it, each with a fix."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """The consequence of a finding for the backup."""

    BLOCKS = "blocks"
    """There will be no restore point, or one without important disks."""
    FULL = "full"
    """Each backup reads disks completely."""
    WARNING = "warning"
    INFO = "info"


_ORDER: Final = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact and its fix."""

    check: str
    """Stable identifier of the check; docs/commands.md has the list."""
    severity: Severity
    text: str
    """One line."""
    fix: str
    """The action to take; empty if none is necessary."""


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings in descending order of severity; the order is otherwise kept."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def is_blocked(findings: Iterable[Finding]) -> bool:
    return any(finding.severity is Severity.BLOCKS for finding in findings)
