"""A program in a thread whose requests a generator yields."""

import threading
from collections.abc import Callable
from typing import Any

from tools.model.requests import Pause, Program, Request


class DiedError(BaseException):
    """Raised in a program that was killed, at each of its requests."""


class Port:
    """The connection of one program to the scheduler. Only one thread of all programs runs."""

    def __init__(self, resumed: Callable[[], None]) -> None:
        """*resumed* is called each time before the program continues."""
        self._resumed = resumed
        self._reply: Any = None
        self._request: Request | None = None
        self._error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._is_dead = False

    def ask(self, request: Request) -> Any:
        """Send a request and return its reply; called by the program."""
        if self._is_dead:
            raise DiedError
        self._request = request
        self._stopped.release()
        self._go.acquire()
        if self._is_dead:
            raise DiedError
        return self._reply

    def pause(self) -> None:
        """Let other programs work."""
        self.ask(Pause())

    def run(self, body: Callable[[], None]) -> Program[None]:
        """Yield the requests of *body*, which runs in a thread. Closing the generator kills it."""

        def guarded() -> None:
            self._go.acquire()
            try:
                body()
            except DiedError:
                """It was killed."""
            except BaseException as exc:
                self._error = exc
            self._request = None
            self._stopped.release()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        try:
            while True:
                self._resumed()
                self._go.release()
                self._stopped.acquire()
                if self._request is None:
                    break
                self._reply = yield self._request
        finally:
            while thread.is_alive():
                self._is_dead = True
                self._go.release()
                thread.join(0.05)
        if self._error is not None:
            raise self._error


class Baton:
    """A lock between programs; a program that waits lets others work."""

    def __init__(self) -> None:
        self.owner: Port | None = None
        self.depth = 0

    def take(self, port: Port) -> None:
        while self.owner not in (None, port):
            port.pause()
        self.owner = port
        self.depth += 1

    def give(self) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.owner = None
