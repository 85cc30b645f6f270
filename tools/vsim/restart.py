"""Restarts of the server: away, starting, back, by the simulator's clock."""

import threading
from typing import TYPE_CHECKING

from tools.vsim.fault import Fault

if TYPE_CHECKING:
    from tools.vsim.api.site import Site
    from tools.vsim.soap.server import HttpsServer


class Restarts:
    """One restart at a time, in a thread."""

    server: "HttpsServer"

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float, starting: float) -> None:
        """Let the server be away, then starting; raises Fault if it is restarting already."""
        with self._site.world.lock:
            if self._thread is not None and self._thread.is_alive():
                raise Fault("vim.fault.InvalidState", "The server is restarting already.")
            self.server.is_away = True  # from now on nobody is answered
            back = self._site.world.monotonic() + seconds
            self._thread = threading.Thread(target=self._run, args=(back, back + starting))
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return once the server is back; raises TimeoutError."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                raise TimeoutError(f"the server is not back in {seconds} s")

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
        """Until that time on the simulator's clock, or until the simulator ends."""
        world = self._site.world
        with world.changed:
            while not self._site.closing and (left := due - world.monotonic()) > 0:
                world.changed.wait(left)

    def close(self) -> None:
        """Wait for the end of a restart, which comes at once when the simulator is closing."""
        if self._thread is not None:
            self._thread.join()
