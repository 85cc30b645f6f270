"""Several VMs at once: each in a thread, failures kept apart, an interrupt passed on to all."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from cbtfs.errors import CbtfsError, StoreFailed
from cbtfs.ingest.fleet.schedule import FleetLimits, Needs, Schedule

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Done = TypeVar("Done")

TRIES: Final = 3
"""So often a VM is tried whose failure was none of its own, such as a restart of the vCenter."""
_ATTENTION: Final = 0.5
"""Seconds: a signal may reach another thread of the process, which does not wake the waiting one;
its handler runs when that wakes by itself."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[Item, Done]):
    """What became of an item."""

    item: Item
    result: Done | CbtfsError
    seconds: float
    """At work on it, all tries together."""
    tries: int


@dataclass(frozen=True, slots=True)
class Results(Generic[Item, Done]):
    """What became of each item that had its turn, in the order in which they were given."""

    ended: list[Ended[Item, Done]]

    @property
    def done(self) -> list[tuple[Item, Done]]:
        return [
            (each.item, each.result)
            for each in self.ended
            if not isinstance(each.result, CbtfsError)
        ]

    @property
    def failed(self) -> list[tuple[Item, CbtfsError]]:
        return [
            (each.item, each.result) for each in self.ended if isinstance(each.result, CbtfsError)
        ]


def _nothing(item: object) -> Needs:
    return {}


def _never(item: object, error: CbtfsError) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Rules(Generic[Item, Done]):
    """How a fleet is worked through."""

    limits: FleetLimits = field(default_factory=FleetLimits)
    needs: Callable[[Item], Needs] = _nothing
    """What an item takes now, asked just before it starts."""
    goes_again: Callable[[Item, CbtfsError], bool] = _never
    """Whether an item that failed so is tried once more, after all others."""
    on_end: Callable[[Ended[Item, Done]], None] = lambda ended: None
    """Told of each item that is done with, by one thread at a time."""


def run_all(
    items: Sequence[Item],
    work: Callable[[Item], Done],
    stop: threading.Event,
    rules: Rules[Item, Done] | None = None,
) -> Results[Item, Done]:
    """Do *work* for each item, as many at a time as the limits allow.

    An exception in the waiting thread, such as that of a signal, sets *stop*; it comes out only
    when all work at hand has ended, so that nothing is left behind. A repository that cannot be
    written to stops the rest too. What is no CbtfsError is a bug, and comes out at the end.
    """
    return _Fleet(items, work, stop, rules or Rules()).run()


class _Fleet(Generic[Item, Done]):
    """One run: its schedule, its threads, and what has ended so far."""

    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Done],
        stop: threading.Event,
        rules: Rules[Item, Done],
    ) -> None:
        self._items = items
        self._work = work
        self._stop = stop
        self._rules = rules
        self._schedule = Schedule(len(items), rules.limits)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._futures: list[Future[None]] = []
        self._ended: dict[int, Ended[Item, Done]] = {}
        self._spent: dict[int, list[float]] = {}

    def run(self) -> Results[Item, Done]:
        interrupt: BaseException | None = None
        with ThreadPoolExecutor(self._rules.limits.jobs, "vm") as pool:
            pool.submit(self._fill, pool)  # by a thread that no signal interrupts
            while not self._over.is_set():
                try:
                    self._over.wait(_ATTENTION)
                except BaseException as exc:
                    if interrupt is None:
                        log.warning("ending: what is at hand is cleaned up first")
                    interrupt = interrupt or exc
                    self._stop.set()
        if interrupt is not None:
            raise interrupt
        for future in self._futures:
            future.result()
        return Results([self._ended[number] for number in sorted(self._ended)])

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Set to work all who can go."""
        with self._lock:
            if self._stop.is_set():
                self._schedule.drop()
            while (number := self._schedule.take()) is not None:
                self._futures.append(pool.submit(self._turn, pool, number))
            if self._schedule.is_over:
                self._over.set()

    def _turn(self, pool: ThreadPoolExecutor, number: int) -> None:
        """One item, from its being placed to its end."""
        is_open = True
        try:
            is_open = self._place(number)
            if is_open and self._attempt(number):
                with self._lock:
                    self._schedule.again(number)
                is_open = False
        except StoreFailed:
            self._stop.set()
            raise
        finally:
            if is_open:
                with self._lock:
                    self._schedule.end(number)
            self._fill(pool)

    def _place(self, number: int) -> bool:
        """Whether the item can go where it is now; if not, the schedule has it back."""
        needs: Needs = {}
        if self._rules.limits.jobs > 1 and not self._stop.is_set():
            try:
                needs = self._rules.needs(self._items[number])
            except CbtfsError as exc:
                log.debug("where it is cannot be told: %s", exc)  # its capture will tell
        with self._lock:
            return self._schedule.place(number, needs)

    def _attempt(self, number: int) -> bool:
        """Do the work once; whether to do it once more."""
        if self._stop.is_set():
            return False
        item, spent = self._items[number], self._spent.setdefault(number, [])
        started = time.monotonic()
        result: Done | CbtfsError
        try:
            result = self._work(item)
        except StoreFailed:
            raise
        except CbtfsError as exc:
            result = exc
        spent.append(time.monotonic() - started)
        if (
            isinstance(result, CbtfsError)
            and len(spent) < TRIES
            and not self._stop.is_set()
            and self._rules.goes_again(item, result)
        ):
            return True
        with self._lock:
            ended = Ended(item, result, sum(spent), len(spent))
            self._ended[number] = ended
            self._rules.on_end(ended)
        return False
