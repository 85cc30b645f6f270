"""Several items at once, in threads: separate failures, interrupts, retries, limits."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cbtfs.errors import CbtfsError, SourceUnavailable, StoreFailed
from cbtfs.ingest.fleet.pool import TRIES, Ended, Rules, run_all
from cbtfs.ingest.fleet.schedule import FleetLimits, Needs, Resource


class Meter:
    """Counts the items in progress at the same time, by resource."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[object] = Counter()
        self.most: Counter[object] = Counter()

    @contextmanager
    def counting(self, *what: object) -> Iterator[None]:
        with self._lock:
            self._now.update(what)
            for resource in what:
                self.most[resource] = max(self.most[resource], self._now[resource])
        try:
            yield
        finally:
            with self._lock:
                self._now.subtract(what)


def test_no_host_exceeds_its_limit_and_all_jobs_are_used() -> None:
    meter, gate = Meter(), threading.Barrier(4)

    def needs(item: int) -> Needs:
        return {Resource("host", str(item % 3)): 1}

    def work(item: int) -> int:
        with meter.counting("all", item % 3):
            gate.wait(30)  # passes only with four items at a time
        return -item

    rules: Rules[int, int] = Rules(FleetLimits(4, per_host=2), needs)
    results = run_all(range(24), work, threading.Event(), rules)

    assert results.done == [(item, -item) for item in range(24)]
    assert meter.most["all"] == 4
    assert max(meter.most[host] for host in range(3)) == 2


def test_a_failed_item_does_not_affect_the_others() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise SourceUnavailable("two")
        return item

    results = run_all(range(4), work, threading.Event())

    assert [item for item, _ in results.done] == [0, 1, 3]
    assert [(item, str(error)) for item, error in results.failed] == [(2, "two")]


def test_a_bug_is_raised_after_the_others_have_ended() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise ZeroDivisionError
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        run_all(range(4), work, threading.Event())
    assert done == [0, 2, 3]


def test_a_repository_that_cannot_be_written_stops_the_rest() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise StoreFailed("full")
        done.append(item)

    with pytest.raises(StoreFailed):
        run_all(range(4), work, threading.Event())
    assert done == [0]


def test_an_item_with_a_temporary_failure_is_retried_a_few_times() -> None:
    tries: Counter[int] = Counter()
    reported: list[Ended[int, int]] = []

    def work(item: int) -> int:
        tries[item] += 1
        if item == 0 or (item == 1 and tries[1] == 1):
            raise SourceUnavailable("away")
        if item == 2:
            raise CbtfsError("for good")
        return item

    def goes_again(item: int, error: CbtfsError) -> bool:
        return isinstance(error, SourceUnavailable)

    rules: Rules[int, int] = Rules(FleetLimits(2), goes_again=goes_again, on_end=reported.append)
    results = run_all(range(4), work, threading.Event(), rules)

    assert tries == {0: TRIES, 1: 2, 2: 1, 3: 1}
    assert [item for item, _ in results.done] == [1, 3]
    assert [item for item, _ in results.failed] == [0, 2]
    assert {ended.item: ended.tries for ended in reported} == dict(tries)


def test_items_with_unknown_needs_are_started() -> None:
    def needs(item: int) -> Needs:
        raise SourceUnavailable("nobody knows")

    results = run_all(range(3), lambda item: item, threading.Event(), Rules(FleetLimits(2), needs))

    assert len(results.done) == 3


def test_an_empty_run_ends_at_once() -> None:
    assert run_all([], lambda item: item, threading.Event()).ended == []


def test_an_interrupt_stops_all_and_is_raised_at_the_end() -> None:
    stop, at_work, ended = threading.Event(), threading.Event(), list[int]()

    def work(item: int) -> None:
        if item == 0:
            at_work.set()  # items that have not started before the signal do not start
        if item == 1:
            assert at_work.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(30)
        ended.append(item)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(range(9), work, stop, Rules(FleetLimits(2)))
    finally:
        signal.signal(signal.SIGINT, before)

    assert sorted(ended) == [0, 1]
