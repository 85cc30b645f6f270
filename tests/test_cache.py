"""The cache is bounded in bytes, and concurrent misses share one load."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.cache import Cache


def returning(value: bytes) -> Callable[[], bytes]:
    return lambda: value


def must_not_load() -> bytes:
    raise AssertionError("a cached value was loaded again")


def test_a_loaded_value_is_cached() -> None:
    cache: Cache[str, bytes] = Cache(100, len)
    cache.load("a", returning(b"aa"))

    assert cache.get("a") == b"aa"
    assert cache.load("a", must_not_load) == b"aa"


def test_get_returns_none_for_an_unknown_key() -> None:
    cache: Cache[str, bytes] = Cache(100, len)

    assert cache.get("a") is None


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: Cache[str, bytes] = Cache(3, len)
    for key in "abc":
        cache.load(key, returning(b"x"))
    cache.get("a")
    cache.load("b", must_not_load)
    cache.load("d", returning(b"x"))

    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "b", "d"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.booleans())))
def test_the_cache_never_exceeds_its_capacity(
    uses: list[tuple[int, int, bool]],
) -> None:
    cache: Cache[int, bytes] = Cache(100, len)
    for key, size, is_drop in uses:
        if is_drop:
            cache.drop(key)
        else:
            cache.load(key, returning(bytes(size)))
        cached = [value for n in range(10) if (value := cache.get(n)) is not None]

        assert sum(map(len, cached)) <= 100


def test_a_value_larger_than_the_cache_stays_until_the_next_load() -> None:
    cache: Cache[str, bytes] = Cache(10, len)
    cache.load("large", returning(bytes(50)))
    assert cache.get("large") is not None
    cache.load("small", returning(b"x"))

    assert cache.get("large") is None
    assert cache.get("small") == b"x"


def test_a_dropped_value_is_loaded_again() -> None:
    cache: Cache[str, bytes] = Cache(100, len)
    cache.load("a", returning(b"old"))
    cache.drop("a")
    cache.drop("never there")

    assert cache.load("a", returning(b"new")) == b"new"


class SlowLoad:
    """A load that blocks until may_end is set and counts its calls."""

    def __init__(self, result: Callable[[], bytes]) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.count = 0
        self._result = result

    def __call__(self) -> bytes:
        self.count += 1
        self.started.set()
        assert self.may_end.wait(30)
        return self._result()


def test_concurrent_misses_share_one_load() -> None:
    cache: Cache[str, bytes] = Cache(100, len)
    slow = SlowLoad(returning(b"value"))
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(cache.load, "a", slow)
        assert slow.started.wait(30)
        others = [threads.submit(cache.load, "a", slow) for _ in range(7)]
        slow.may_end.set()
        values = [future.result() for future in (first, *others)]

    assert values == [b"value"] * 8
    assert slow.count == 1


def test_a_failed_load_raises_and_is_not_cached() -> None:
    def fail() -> bytes:
        raise OSError("damaged")

    cache: Cache[str, bytes] = Cache(100, len)
    slow = SlowLoad(fail)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.load, "a", slow)
        assert slow.started.wait(30)
        slow.may_end.set()
        with pytest.raises(OSError, match="damaged"):
            first.result()

    assert cache.get("a") is None
    assert cache.load("a", returning(b"intact")) == b"intact"


def test_a_slow_load_does_not_delay_other_keys() -> None:
    cache: Cache[str, bytes] = Cache(100, len)
    slow = SlowLoad(returning(b"slow"))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.load, "slow", slow)
        assert slow.started.wait(30)
        fast = cache.load("fast", returning(b"fast"))
        slow.may_end.set()

        assert fast == b"fast"
        assert first.result() == b"slow"
