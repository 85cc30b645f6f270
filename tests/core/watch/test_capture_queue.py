"""Captures after events: at most one of a VM in an interval, none forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.watch.capture_queue import CaptureQueue


def test_requests_of_a_vm_become_one_capture() -> None:
    queue = CaptureQueue(900)
    queue.add("vm-1", "power")
    queue.add("vm-1", "disk")
    queue.add("vm-1", "power")

    assert queue.take(0) == {"vm-1": ["power", "disk"]}
    assert queue.take(0) == {}


def test_a_request_within_the_interval_waits() -> None:
    queue = CaptureQueue(900)
    queue.add("vm-1", "power")
    queue.take(0)
    queue.add("vm-1", "snapshot")
    queue.add("vm-2", "snapshot")

    assert queue.take(899) == {"vm-2": ["snapshot"]}
    assert queue.take(900) == {"vm-1": ["snapshot"]}


def test_the_requests_of_a_vm_that_is_gone_are_dropped() -> None:
    queue = CaptureQueue(900)
    queue.add("vm-1", "power")
    queue.drop("vm-1")

    assert queue.take(0) == {}


@given(
    st.integers(0, 100),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans()), max_size=30),
)
def test_no_vm_starts_twice_in_an_interval_and_every_request_is_served(
    interval: int, steps: list[tuple[str, int, bool]]
) -> None:
    queue, now = CaptureQueue(interval), 0
    started: dict[str, float] = {}
    waiting: set[str] = set()
    for vm, pause, is_request in steps:
        now += pause
        if is_request:
            queue.add(vm, "power")
            waiting.add(vm)
        for taken in queue.take(now):
            assert now - started.get(taken, -1e9) >= interval
            started[taken] = now
            waiting.remove(taken)

    assert set(queue.take(now + interval)) == waiting
