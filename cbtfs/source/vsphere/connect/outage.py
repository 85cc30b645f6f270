"""How long a server that went away is waited for, by all who ask it something together."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy

log = logging.getLogger(__name__)

_SLOW_SECONDS: Final = 5.0
"""A try that takes longer than that to fail is noticed by whoever waits for the command."""


class Outage:
    """Whether the server is away, since when, and for how much longer that is borne.

    A vCenter that restarts refuses connections, then answers 503, for some minutes; the VMs, their
    snapshots and the transports that go to the hosts do not mind. Safe to use from several threads.
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
        self._is_told = False

    @property
    def count(self) -> int:
        """How often the server went away so far."""
        return self._count

    @property
    def is_lost(self) -> bool:
        """It is away, and has been for longer than anybody waits."""
        with self._lock:
            since = self._since
        return since is not None and self._clock() - since >= self._retry_policy.away

    def notice(self, number: int, seconds: float) -> None:
        """Log once that the server is waited for, after failed try *number* that took *seconds*.

        One try that fails quickly is not worth a line: servers close idle connections.
        """
        if number == 0 and seconds < _SLOW_SECONDS:
            return
        with self._lock:
            was_told, self._is_told = self._is_told, True
        if not was_told:
            log.warning("waiting for %s, which does not answer", self._server)

    def begins(self) -> None:
        """No answer came, after as many tries as a lost connection is worth."""
        with self._lock:
            if self._since is not None:
                return
            self._since = self._clock()
            self._count += 1
        if self._retry_policy.away:
            log.warning("waiting for %s for %.0f s at most", self._server, self._retry_policy.away)

    def ends(self) -> None:
        """An answer came."""
        with self._lock:
            was_told, self._is_told = self._is_told, False
            was_away, self._since = self._since is not None, None
        if was_away or was_told:
            log.warning("%s answers again", self._server)

    def pauses(self) -> Iterator[float]:
        """Seconds before each further try of a call that got no answer.

        Once the server is lost there is one try and no pause, whoever asks, until it answers.
        """
        if self.is_lost:
            return
        yield from self._retry_policy.connection
        self.begins()
        while not self.is_lost:
            yield self._retry_policy.knock
