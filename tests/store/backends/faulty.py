"""A backend that fails on request."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TypeVar

from cbtfs.store.backend.base import (
    Content,
    FileBackend,
    Head,
    OpenObject,
    Parts,
    Upload,
)

Result = TypeVar("Result")


class Fault(Enum):
    """How a request fails."""

    REFUSED = "refused"
    """It has no effect."""
    LOST = "lost"
    """It takes effect, and its caller gets an error."""


class FaultyUpload:
    """An upload whose requests count as requests of its backend."""

    def __init__(self, backend: "Faulty", inner: Upload) -> None:
        self._backend = backend
        self._inner = inner

    def write(self, parts: Parts) -> int:
        return self._backend.request(lambda: self._inner.write(parts))

    def close(self) -> None:
        self._backend.request(self._inner.close)

    def abandon(self) -> None:
        self._inner.abandon()


class Faulty:
    """A FileBackend over *inner*, one request of which fails with EIO.

    A storage that is full, slow or disconnected looks the same to its caller. `fails_at` is the
    number of the request that fails, counted from 1; with None, no request fails.
    """

    def __init__(
        self, inner: FileBackend, fails_at: int | None = None, fault: Fault = Fault.REFUSED
    ) -> None:
        self._inner = inner
        self.fails_at = fails_at
        self.fault = fault
        self.requests = 0

    def request(self, call: Callable[[], Result]) -> Result:
        """Return the result of *call*, or fail before or after it."""
        self.requests += 1
        if self.requests != self.fails_at:
            return call()
        if self.fault is Fault.LOST:
            call()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def path(self, name: str) -> Path:
        return self._inner.path(name)

    def create(self, name: str, data: bytes) -> None:
        self.request(lambda: self._inner.create(name, data))

    def upload(self, name: str) -> Upload:
        return FaultyUpload(self, self.request(lambda: self._inner.upload(name)))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        return self.request(lambda: self._inner.get(name, offset, length))

    def open(self, name: str) -> OpenObject:
        return self.request(lambda: self._inner.open(name))

    def names(self) -> Collection[str]:
        return self.request(self._inner.names)

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return self.request(lambda: self._inner.names_after(name, prefix))

    def head(self, name: str) -> Head:
        return self.request(lambda: self._inner.head(name))

    def sizes(self) -> Mapping[str, int]:
        return self.request(self._inner.sizes)

    def delete(self, name: str) -> None:
        self.request(lambda: self._inner.delete(name))

    def unfinished(self) -> int:
        return self.request(self._inner.unfinished)

    def discard_unfinished(self) -> int:
        return self.request(self._inner.discard_unfinished)

    def follow(self) -> bool:
        return self._inner.follow()

    def close(self) -> None:
        self._inner.close()

    def replace(self, name: str, data: bytes) -> None:
        self.request(lambda: self._inner.replace(name, data))

    def rename(self, name: str, new: str) -> None:
        self.request(lambda: self._inner.rename(name, new))

    def flush(self) -> None:
        self.request(self._inner.flush)

    def lease(self, name: str) -> AbstractContextManager[None]:
        return self.request(lambda: self._inner.lease(name))

    def claim(self, name: str) -> AbstractContextManager[bool]:
        return self.request(lambda: self._inner.claim(name))

    def locked(self) -> AbstractContextManager[None]:
        return self.request(self._inner.locked)
