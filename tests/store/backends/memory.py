"""A backend in memory."""

import errno
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cbtfs.store.backend.base import Content, Head, OpenObject, Parts, sorted_after
from tools.model.real.opened import OpenedBytes


class _Entry:
    def __init__(self, data: bytes, number: int) -> None:
        self.data = data
        self.number = number
        self.is_removed = False
        self.leases = 0
        self.is_claimed = False

    @property
    def head(self) -> Head:
        return Head(len(self.data), self.number.to_bytes(24, "big"))


class MemoryUpload:
    """An object that is being written."""

    def __init__(self, backend: "Memory", name: str) -> None:
        self._backend = backend
        self._name = name
        self._data = bytearray()

    def write(self, parts: Parts) -> int:
        before = len(self._data)
        for part in parts:
            self._data += part
        return len(self._data) - before

    def close(self) -> None:
        self._backend.create(self._name, bytes(self._data))
        self.abandon()

    def abandon(self) -> None:
        self._backend.uploads.discard(self)


class Memory:
    """A FileBackend whose objects are in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._changed = threading.Condition()
        self._whole = threading.Lock()
        self._numbers = 0
        self.uploads: set[MemoryUpload] = set()

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _put(self, name: str, data: bytes) -> None:
        self._numbers += 1
        old = self._entries.get(name)
        if old is not None:
            old.is_removed = True
        self._entries[name] = _Entry(data, self._numbers)

    def path(self, name: str) -> Path:
        return Path("/memory", name)

    def create(self, name: str, data: bytes) -> None:
        with self._changed:
            if name in self._entries:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._put(name, data)

    def upload(self, name: str) -> MemoryUpload:
        upload = MemoryUpload(self, name)
        self.uploads.add(upload)
        return upload

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        with self._changed:
            entry = self._entry(name)
        end = None if length is None else offset + length
        return Content(entry.data[offset:end], entry.head)

    def open(self, name: str) -> OpenObject:
        with self._changed:
            entry = self._entry(name)
        return OpenedBytes(self.path(name), entry.data, lambda: entry.is_removed)

    def names(self) -> Collection[str]:
        with self._changed:
            return list(self._entries)

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return iter(sorted_after(self.names(), name, prefix))

    def head(self, name: str) -> Head:
        with self._changed:
            return self._entry(name).head

    def sizes(self) -> Mapping[str, int]:
        with self._changed:
            return {name: len(entry.data) for name, entry in self._entries.items()}

    def delete(self, name: str) -> None:
        with self._changed:
            entry = self._entries.pop(name, None)
            if entry is not None:
                entry.is_removed = True

    def unfinished(self) -> int:
        return len(self.uploads)

    def discard_unfinished(self) -> int:
        count = len(self.uploads)
        self.uploads.clear()
        return count

    def follow(self) -> bool:
        return False

    def close(self) -> None:
        """Keep the objects: a test opens them again."""

    def replace(self, name: str, data: bytes) -> None:
        with self._changed:
            self._put(name, data)

    def rename(self, name: str, new: str) -> None:
        with self._changed:
            entry = self._entry(name)
            replaced = self._entries.get(new)
            if replaced is not None:
                replaced.is_removed = True
            del self._entries[name]
            self._entries[new] = entry

    def flush(self) -> None:
        """Do nothing: memory does not outlive a crash."""

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        with self._changed:
            entry = self._entry(name)
            self._changed.wait_for(lambda: not entry.is_claimed)
            entry.leases += 1
        try:
            yield
        finally:
            with self._changed:
                entry.leases -= 1

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        with self._changed:
            entry = self._entries.get(name)
            if entry is None or entry.leases or entry.is_claimed:
                entry = None
            else:
                entry.is_claimed = True
        try:
            yield entry is not None
        finally:
            if entry is not None:
                with self._changed:
                    entry.is_claimed = False
                    self._changed.notify_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._whole:
            yield
