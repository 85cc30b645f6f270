"""Simulated restarts of the server, timed by the simulator's clock."""

import threading
from typing import Protocol

from tools.vsim.api.site import SimulatedSite
from tools.vsim.fault import Fault


class RestartableServer(Protocol):
    """A server that closes its port and opens it again."""

    is_away: bool  # connections are refused
    is_starting: bool  # requests are answered with HTTP 503

    def go_away(self) -> None:
        """Close the port and every connection."""

    def come_back(self) -> None:
        """Listen on the same port again."""


class Restarts:
    """Runs one restart at a time, in a thread."""

    server: RestartableServer

    def __init__(self, site: SimulatedSite) -> None:
        self._site = site
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float, starting: float) -> None:
        """Start a restart: away for *seconds*, then 503 for *starting* seconds.

        Raises Fault if a restart is in progress.
        """
        with self._site.world.lock:
            if self._thread is not None and self._thread.is_alive():
                raise Fault("vim.fault.InvalidState", "The server is already restarting.")
            self.server.is_away = True  # refuses requests from this moment on
            back = self._site.world.monotonic() + seconds
            self._thread = threading.Thread(target=self._run, args=(back, back + starting))
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return once the server is back; raises TimeoutError."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                raise TimeoutError(f"the server did not come back within {seconds} s")

    def _run(self, back: float, started: float) -> None:
        self.server.go_away()
        self._wait_until(back)
        self.server.is_starting = True
        self.server.come_back()
        with self._site.world.changed:
            self._site.world.changed.notify_all()
        self._wait_until(started)
        self.server.is_starting = False

    def _wait_until(self, due: float) -> None:
        """Return at that time of the simulator's clock, or when the simulator closes."""
        world = self._site.world
        with world.changed:
            while not self._site.closing and (left := due - world.monotonic()) > 0:
                world.changed.wait(left)

    def close(self) -> None:
        """Wait for the restart in progress; it ends at once when the simulator closes."""
        if self._thread is not None:
            self._thread.join()
