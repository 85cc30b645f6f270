"""Timeouts, retries and size limits of calls to a server."""

from dataclasses import dataclass
from typing import Final

from cbtfs.source.transport.answers import CALL_SECONDS, MAX_BYTES

_LEASE_RETRIES: Final = 10
"""Retries after those of a VM that is busy."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Timeouts in seconds. A tuple has one pause before each retry."""

    reply: float = 120.0
    """Timeout of one request; a wait for updates is always shorter."""
    call: float = CALL_SECONDS
    """Timeout of one whole answer, from the request to the last byte."""
    poll: int = 5
    """Maximum duration of one wait for updates: an interrupt is delayed by as much."""
    task: float = 3600.0
    """Timeout of one task: the consolidation of a large delta disk can take that long."""
    login: float = 300.0
    """Interval of keep-alive calls; an idle session ends after 30 minutes."""
    connection: tuple[float, ...] = (0.5, 2.0, 8.0)
    """After a lost connection, or while the server is starting."""
    away: float = 900.0
    """Maximum wait for an unavailable server: the restart of a vCenter takes minutes."""
    knock: float = 5.0
    """Interval of checks whether the server is available again."""
    busy: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0)
    """Pauses while another operation on the VM is in progress."""
    lease: float = 330.0
    """Maximum wait for the end of an export lease that a killed run left: vSphere ends a lease 300
    seconds after its last report."""
    quiesce: tuple[float, ...] = (5.0, 5.0)
    """Pauses after a failed attempt to quiesce the guest."""
    max_bytes: int = MAX_BYTES
    """Maximum size of one answer, decompressed."""
    max_pages: int = 10_000
    """Maximum number of pages of one reading of properties, with up to 1000 objects per page, and
    of one change list, plus one page per 16 MiB of the disk."""
    max_updates: int = 1_000
    """Maximum number of consecutive truncated updates about one task."""

    def after_a_lease(self) -> tuple[float, ...]:
        """Return the pauses while an export lease may block a VM: *busy*, then more."""
        left = max(0.0, self.lease - sum(self.busy))
        return (*self.busy, *[left / _LEASE_RETRIES] * _LEASE_RETRIES * (left > 0))
