"""A cache that is bounded in bytes. Concurrent misses of one key share one load."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Load(Generic[Value]):
    """The result of a load that several callers await. A future takes five times as long."""

    def __init__(self) -> None:
        self._is_loading = threading.Lock()
        self._is_loading.acquire()
        self._error: BaseException | None = None
        self._value: Value

    def finish(self, value: Value) -> None:
        self._value = value
        self._is_loading.release()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._is_loading.release()

    def wait(self) -> Value:
        with self._is_loading:
            pass
        if self._error is not None:
            raise self._error
        return self._value


class Cache(Generic[Key, Value]):
    """Values by key; evicts the least recently used first. Safe to use from several threads.

    *cost* returns the size of a value in bytes.
    """

    def __init__(self, capacity: int, cost: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._cost = cost
        self._bytes = 0
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._loading: dict[Key, _Load[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """Return the cached value of *key*, or None."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def load(self, key: Key, load: Callable[[], Value]) -> Value:
        """Return the cached value of *key*, or cache and return the result of *load*.

        While one caller loads, others wait and get the same value or exception.
        """
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
                return value
            loading = self._loading.get(key)
            if loading is None:
                mine = self._loading[key] = _Load()
        if loading is not None:
            return loading.wait()
        try:
            value = load()
        except BaseException as exc:
            with self._lock:
                del self._loading[key]
            mine.fail(exc)
            raise
        with self._lock:
            del self._loading[key]
            self._keep(key, value)
        mine.finish(value)
        return value

    def keep(self, key: Key, value: Value) -> None:
        """Cache *value* unless *key* is cached already."""
        with self._lock:
            if key not in self._entries:
                self._keep(key, value)

    def _keep(self, key: Key, value: Value) -> None:
        self._entries[key] = value
        self._bytes += self._cost(value)
        while self._bytes > self._capacity and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= self._cost(dropped)

    def drop(self, key: Key) -> None:
        """Remove *key* from the cache."""
        with self._lock:
            value = self._entries.pop(key, None)
            if value is not None:
                self._bytes -= self._cost(value)
