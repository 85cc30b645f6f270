"""Several VMs at once: each in a thread, failures kept apart, an interrupt passed on to all."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cbtfs.errors import CbtfsError, StoreFailed

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Results(Generic[Item, Done]):
    """What became of each item, in the order in which they were given."""

    done: list[tuple[Item, Done]]
    failed: list[tuple[Item, CbtfsError]]


def run_all(
    items: Sequence[Item], jobs: int, work: Callable[[Item], Done], stop: threading.Event
) -> Results[Item, Done]:
    """Do *work* for each item, *jobs* at a time.

    An exception in the waiting thread, such as that of a signal, sets *stop*; it comes out only
    when all work at hand has ended, so that nothing is left behind. A repository that cannot be
    written to stops the rest too. What is no CbtfsError is a bug, and comes out at the end.
    """

    def one(item: Item) -> Done | CbtfsError | None:
        if stop.is_set():
            return None
        try:
            return work(item)
        except StoreFailed:
            stop.set()
            raise
        except CbtfsError as exc:
            return exc

    with ThreadPoolExecutor(jobs, "vm") as pool:
        futures = [pool.submit(one, item) for item in items]
        _wait(futures, stop)
    results = [(item, future.result()) for item, future in zip(items, futures, strict=True)]
    done = [(i, r) for i, r in results if r is not None and not isinstance(r, CbtfsError)]
    failed = [(i, r) for i, r in results if isinstance(r, CbtfsError)]
    return Results(done, failed)


def _wait(futures: "Sequence[Future[Any]]", stop: threading.Event) -> None:
    interrupt: BaseException | None = None
    while True:
        try:
            wait(futures)
            break
        except BaseException as exc:
            if interrupt is None:
                log.warning("ending: what is at hand is cleaned up first")
            interrupt = interrupt or exc
            stop.set()
    if interrupt is not None:
        raise interrupt
