"""How workers take turns at one queue of requests, and how pyfuse3 is made to wait for its turn.

All workers are woken when a request comes, and one gets it. pyfuse3 then reads from a descriptor
that blocks, with Python's lock held: a worker that came second would stand still, with answers
that it owes, until there is another request. So a worker reads only when it has the turn and has
seen, in its turn, that there is something to read.
"""

import fcntl
import select
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Final

import pyfuse3
import trio

_IN_A_ROW: Final = 16
"""Requests that a task answers before others get to run, where requests queue up."""

Wait = Callable[[int], Awaitable[None]]


class SharedTurn:
    """A turn that is a lock on *turns*, a descriptor of this process alone.

    It ends with its process, however that ends. trio runs nothing else between the return of
    wait_readable() and the read, so whatever runs next may call end().
    """

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._is_mine = False
        self._polls: dict[int, select.poll] = {}
        self._in_a_row = 0

    async def wait_readable(self, fd: int) -> None:
        self.end()
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        poll = self._polls.get(fd)
        if poll is None:
            poll = self._polls[fd] = select.poll()
            poll.register(fd, select.POLLIN)
        while True:
            # Where requests queue up, trio need not be asked.
            if not poll.poll(0):
                self._in_a_row = 0
                await trio.lowlevel.wait_readable(fd)
            fcntl.flock(self._turns, fcntl.LOCK_EX)
            self._is_mine = True
            if poll.poll(0):
                return
            self.end()

    def end(self) -> None:
        if self._is_mine:
            self._is_mine = False
            fcntl.flock(self._turns, fcntl.LOCK_UN)


class ReadLock:
    """What pyfuse3 holds while it waits for a request, in place of trio's lock.

    That one is handed on to whoever waits: then another task answers each request, and each time
    trio has to run in between. This one goes to whoever comes first.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._waiting.park()
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        self._waiting.unpark()


def install(wait_readable: Wait) -> None:
    """Let pyfuse3 wait for requests with *wait_readable*.

    It looks trio up in its module at each use: that is how its own asyncio mode is made.
    """
    lowlevel: dict[str, Any] = {**vars(trio.lowlevel), "wait_readable": wait_readable}
    shown = {**vars(trio), "Lock": ReadLock, "lowlevel": SimpleNamespace(**lowlevel)}
    pyfuse3.trio = SimpleNamespace(**shown)  # type: ignore[attr-defined]
