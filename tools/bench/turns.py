"""Workers of the empty file system take turns at one queue of requests.

A request wakes all workers, and one receives it. pyfuse3 then reads from a blocking descriptor with
the GIL held: a worker that comes second would block until the next request, with unfinished
replies. Therefore a worker reads only while it holds the turn, and only if poll() reports that the
descriptor is readable.
"""

import fcntl
import select
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Final

import pyfuse3
import trio

_IN_A_ROW: Final = 16
"""Requests that a task answers in a row before other tasks run, if requests queue up."""

Wait = Callable[[int], Awaitable[None]]


class SharedTurn:
    """A turn: an flock(2) on *turns*, an open file of this process alone.

    The kernel releases the lock when the process ends. trio runs no other task between the return
    of wait_readable() and the read, so the handler that runs next may call end().
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
            # If requests queue up, skip the event loop of trio.
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
    """Lock that pyfuse3 holds while it waits for a request; it replaces trio.Lock.

    trio.Lock passes ownership to the waiting task: another task answers each request, and trio
    schedules between two requests. This lock goes to the first task that acquires the free lock.
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
    """Make pyfuse3 wait for requests with *wait_readable*.

    pyfuse3 looks up trio in its module at each use; its own asyncio mode depends on that.
    """
    lowlevel: dict[str, Any] = {**vars(trio.lowlevel), "wait_readable": wait_readable}
    replaced = {**vars(trio), "Lock": ReadLock, "lowlevel": SimpleNamespace(**lowlevel)}
    pyfuse3.trio = SimpleNamespace(**replaced)  # type: ignore[attr-defined]
