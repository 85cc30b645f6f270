"""Wait for an unavailable server, with one time limit for all threads together."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy

log = logging.getLogger(__name__)

_SLOW_SECONDS: Final = 5.0
"""A failed attempt that took longer than this is reported, because the user notices the delay."""


class Outage:
    """The state of an outage of the server: whether and since when it is unavailable.

    A vCenter that restarts refuses connections and then answers 503 for some minutes. VMs, their
    snapshots and transports that read from hosts are not affected. Safe to use from several
    threads.
    """

    def __init__(
        self, server: str, retry_policy: RetryPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._retry_policy = retry_policy
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._count = 0
        self._is_reported = False

    @property
    def count(self) -> int:
        """Number of outages so far."""
        return self._count

    @property
    def is_lost(self) -> bool:
        """The server has been unavailable for longer than the policy waits."""
        with self._lock:
            since = self._since
        return since is not None and self._clock() - since >= self._retry_policy.away

    def notice(self, number: int, seconds: float) -> None:
        """Log one warning about an unavailable server; attempt *number* failed after *seconds*.

        A first attempt that fails quickly is not reported, because servers close idle connections.
        """
        if number == 0 and seconds < _SLOW_SECONDS:
            return
        with self._lock:
            was_reported, self._is_reported = self._is_reported, True
        if not was_reported:
            log.warning("waiting for %s, which does not answer", self._server)

    def begins(self) -> None:
        """Start an outage, after all retries of a lost connection have failed."""
        with self._lock:
            if self._since is not None:
                return
            self._since = self._clock()
            self._count += 1
        if self._retry_policy.away:
            log.warning("waiting for %s for %.0f s at most", self._server, self._retry_policy.away)

    def ends(self) -> None:
        """End the outage, because the server has answered."""
        with self._lock:
            was_reported, self._is_reported = self._is_reported, False
            was_away, self._since = self._since is not None, None
        if was_away or was_reported:
            log.warning("%s answers again", self._server)

    def pauses(self) -> Iterator[float]:
        """Yield the seconds before each retry of an unanswered call.

        After the server is lost, each call is tried once, without retries, until it answers again.
        """
        if self.is_lost:
            return
        yield from self._retry_policy.connection
        self.begins()
        while not self.is_lost:
            yield self._retry_policy.knock
