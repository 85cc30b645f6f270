"""Capture several VMs at once: one thread per VM, separate failures, one interrupt for all."""

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
"""Maximum number of attempts per VM if the failure is temporary, e.g. a restart of the vCenter."""
_POLL_SECONDS: Final = 0.5
"""Interval at which the main thread wakes. A signal may be delivered to another thread, which does
not wake the main thread, and its Python handler runs only in the main thread."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[Item, Done]):
    """Result of one item."""

    item: Item
    result: Done | CbtfsError
    seconds: float
    """Time spent on the item, in all attempts."""
    tries: int


@dataclass(frozen=True, slots=True)
class Results(Generic[Item, Done]):
    """Results of the items that were started, in the order of the items."""

    ended: list[Ended[Item, Done]]

    @property
    def done(self) -> list[tuple[Item, Done]]:
        return [
            (ended.item, ended.result)
            for ended in self.ended
            if not isinstance(ended.result, CbtfsError)
        ]

    @property
    def failed(self) -> list[tuple[Item, CbtfsError]]:
        return [
            (ended.item, ended.result)
            for ended in self.ended
            if isinstance(ended.result, CbtfsError)
        ]


def _nothing(item: object) -> Needs:
    return {}


def _never(item: object, error: CbtfsError) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Rules(Generic[Item, Done]):
    """Limits and callbacks of a run."""

    limits: FleetLimits = field(default_factory=FleetLimits)
    needs: Callable[[Item], Needs] = _nothing
    """Returns the resources that an item needs; called just before it starts."""
    goes_again: Callable[[Item, CbtfsError], bool] = _never
    """Returns whether a failed item is tried again, after all others."""
    on_end: Callable[[Ended[Item, Done]], None] = lambda ended: None
    """Called with the result of each item, by one thread at a time."""


def run_all(
    items: Sequence[Item],
    work: Callable[[Item], Done],
    stop: threading.Event,
    rules: Rules[Item, Done] | None = None,
) -> Results[Item, Done]:
    """Call *work* for each item, as many at once as the limits allow.

    An exception in the waiting thread, e.g. from a signal handler, sets *stop* and is raised after
    all running items have ended, so nothing is left behind. StoreFailed stops the rest too.
    Exceptions other than CbtfsError are bugs; they are raised at the end.
    """
    return _Fleet(items, work, stop, rules or Rules()).run()


class _Fleet(Generic[Item, Done]):
    """One run: its schedule, its threads, and the results so far."""

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
            pool.submit(self._fill, pool)  # in a thread that no signal interrupts
            while not self._over.is_set():
                try:
                    self._over.wait(_POLL_SECONDS)
                except BaseException as exc:
                    if interrupt is None:
                        log.warning("interrupted: cleaning up the VMs in progress first")
                    interrupt = interrupt or exc
                    self._stop.set()
        if interrupt is not None:
            raise interrupt
        for future in self._futures:
            future.result()
        return Results([self._ended[number] for number in sorted(self._ended)])

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Start all items that the limits allow."""
        with self._lock:
            if self._stop.is_set():
                self._schedule.drop()
            while (number := self._schedule.take()) is not None:
                self._futures.append(pool.submit(self._turn, pool, number))
            if self._schedule.is_over:
                self._over.set()

    def _turn(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Place one item, and work on it if it can start."""
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
        """Return whether the item can start; if not, it waits again."""
        needs: Needs = {}
        if self._rules.limits.jobs > 1 and not self._stop.is_set():
            try:
                needs = self._rules.needs(self._items[number])
            except CbtfsError as exc:
                log.debug("placement unknown: %s", exc)  # the capture will fail and report it
        with self._lock:
            return self._schedule.place(number, needs)

    def _attempt(self, number: int) -> bool:
        """Work on the item once; return whether to try again."""
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
