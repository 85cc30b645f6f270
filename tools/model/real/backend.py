"""A backend whose requests go through the network of the model."""

import errno
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cbtfs.store.backend.base import Content, Head, NoReply, OpenObject, Parts, sorted_after
from tools.model.real.objects import Contents, key_of
from tools.model.real.opened import OpenedBytes
from tools.model.real.port import Port
from tools.model.requests import UNANSWERED, Create, Delete, Get, Page
from tools.model.store import Key, Name, Prefix, Store, Value


@dataclass(slots=True)
class Bytes:
    """The bytes and the real name of each object that was ever created."""

    data: dict[int, tuple[Value, str, bytes]] = field(default_factory=dict)
    """By the identity of the value, which is kept."""

    def remember(self, value: Value, name: str, data: bytes) -> None:
        self.data[id(value)] = value, name, data

    def name(self, value: Value) -> str:
        return self.data[id(value)][1]

    def of(self, value: Value) -> bytes:
        return self.data[id(value)][2]


@dataclass(frozen=True, slots=True)
class World:
    """State that all programs of a history share."""

    store: Store
    contents: Contents
    bytes: Bytes


class ModelBackend:
    """One name space of the store, as one program sees it."""

    def __init__(self, world: World, port: Port, prefix: Prefix) -> None:
        self._world = world
        self._port = port
        self._prefix = prefix

    def path(self, name: str) -> Path:
        return Path("/", self._prefix.value, name)

    def _key(self, name: str) -> Key:
        return key_of(self._prefix, name)

    def create(self, name: str, data: bytes) -> None:
        value = self._world.contents.value(self._prefix, name, data)
        self._world.bytes.remember(value, name, data)
        reply = self._port.ask(Create(self._key(name), value))
        if reply is UNANSWERED:
            raise NoReply(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), name)
        if not reply:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)

    def upload(self, name: str) -> "ModelUpload":
        return ModelUpload(self, name)

    def _get(self, name: str) -> bytes:
        value = self._port.ask(Get(self._key(name)))
        if value is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._world.bytes.of(value)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        data = self._get(name)
        end = None if length is None else offset + length
        return Content(data[offset:end], Head(len(data), bytes(24)))

    def open(self, name: str) -> OpenObject:
        return OpenedBytes(self.path(name), self._get(name))

    def names(self) -> Collection[str]:
        names: list[str] = []
        after: Name | None = None
        while True:
            page = self._port.ask(Page(self._prefix, after))
            names += [self._world.bytes.name(value) for _, value in page.items]
            if page.is_last:
                return names
            after = page.items[-1][0]

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return iter(sorted_after(self.names(), name, prefix))

    def head(self, name: str) -> Head:
        return self.get(name).head

    def sizes(self) -> dict[str, int]:
        return {name: self.head(name).size for name in self.names()}

    def delete(self, name: str) -> None:
        if self._port.ask(Delete(self._key(name))) is UNANSWERED:
            raise NoReply(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), name)

    def unfinished(self) -> int:
        return 0

    def discard_unfinished(self) -> int:
        return 0

    def follow(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: each request is durable."""

    def close(self) -> None:
        """Do nothing: the store outlives its programs."""


class ModelUpload:
    """A pack, which is put whole."""

    def __init__(self, backend: ModelBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._data = bytearray()

    def write(self, parts: Parts) -> int:
        before = len(self._data)
        for part in parts:
            self._data += part
        return len(self._data) - before

    def close(self) -> None:
        """Put the pack; a repetition that is refused has met the first request."""
        while True:
            try:
                self._backend.create(self._name, bytes(self._data))
            except NoReply:
                continue
            except FileExistsError:
                return
            else:
                return

    def abandon(self) -> None:
        self._data.clear()
