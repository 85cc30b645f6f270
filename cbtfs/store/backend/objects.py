"""Objects of an S3 bucket: the names of one folder under the prefix of a repository."""

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PosixPath
from typing import Final

from cbtfs.native import PackFile
from cbtfs.store.backend.base import Buffers, Content, Head, OpenObject, Parts
from cbtfs.store.backend.bucket import SCHEME, Bucket
from cbtfs.store.files import scatter

_WINDOW: Final = 4 << 20
"""Bytes that are read at once without a tier."""


class UrlPath(PosixPath):
    """The address of an object, for messages."""

    __slots__ = ()

    def __str__(self) -> str:
        return SCHEME + "/".join(self.parts[1:])


class DirectObject:
    """An object that is read from the bucket, through a window, without local copies."""

    def __init__(self, objects: "Objects", name: str) -> None:
        first = objects.get(name, 0, _WINDOW)
        self._objects = objects
        self._name = name
        self._lock = threading.Lock()
        self._start, self._window = 0, first.data
        self.path = objects.path(name)
        self.size = first.head.size
        self.file = PackFile(os.memfd_create("cbtfs object", os.MFD_CLOEXEC), is_partial=True)
        """Has no bytes: compiled code does not read this object."""

    @property
    def is_removed(self) -> bool:
        try:
            self._objects.head(self._name)
        except FileNotFoundError:
            return True
        return False

    def read_into(self, buffers: Buffers, offset: int) -> int:
        length = min(sum(map(len, buffers)), max(self.size - offset, 0))
        with self._lock:
            if not self._start <= offset <= offset + length <= self._start + len(self._window):
                data = self._objects.get(self._name, offset, max(length, _WINDOW)).data
                self._start, self._window = offset, data
            data = self._window[offset - self._start : offset - self._start + length]
        return scatter(data, buffers)

    def data_from(self, offset: int) -> int:
        return min(offset, self.size)

    def fetch(self, offset: int, length: int) -> None:
        """Do nothing: nothing is kept."""

    def fetch_again(self, offset: int, length: int) -> bool:
        return False

    def pin(self) -> None:
        """Do nothing: nothing is kept."""


class ObjectUpload:
    """An object in memory until close() sends it whole."""

    def __init__(self, objects: "Objects", name: str) -> None:
        self._objects = objects
        self._name = name
        self._data: list[bytes] = []

    def write(self, parts: Parts) -> int:
        written = [bytes(part) for part in parts]
        self._data += written
        return sum(map(len, written))

    def close(self) -> None:
        self._objects.create(self._name, b"".join(self._data))
        self.abandon()

    def abandon(self) -> None:
        self._data.clear()
        self._objects.drop_upload(self)


class Objects:
    """A Backend: the objects of a bucket whose keys begin with the name of a folder."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        """Share *bucket*, which is not closed with this backend."""
        self._bucket = bucket
        self._folder = folder
        self._uploads: set[ObjectUpload] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Keep the bucket open: other backends of this process use it."""

    def path(self, name: str) -> Path:
        url = self._bucket.url
        return UrlPath("/", url.bucket, url.prefix, self._folder, name)

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def create(self, name: str, data: bytes) -> None:
        self._bucket.create(self._key(name), data)

    def upload(self, name: str) -> ObjectUpload:
        upload = ObjectUpload(self, name)
        with self._lock:
            self._uploads.add(upload)
        return upload

    def drop_upload(self, upload: ObjectUpload) -> None:
        """Forget an upload that was completed or abandoned."""
        with self._lock:
            self._uploads.discard(upload)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        return self._bucket.get(self._key(name), offset, length)

    def get_tail(self, name: str, length: int) -> Content:
        """Return the last *length* bytes of an object, or all of it if it is smaller."""
        return self._bucket.get_tail(self._key(name), length)

    def open(self, name: str) -> OpenObject:
        return DirectObject(self, name)

    def names(self) -> Collection[str]:
        return [*self.names_after("")]

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return self._bucket.names_after(self._folder, name, prefix)

    def head(self, name: str) -> Head:
        return self._bucket.head(self._key(name))

    def sizes(self) -> Mapping[str, int]:
        return self._bucket.sizes(self._folder)

    def delete(self, name: str) -> None:
        self._bucket.delete(self._key(name))

    def flush(self) -> None:
        """Do nothing: a deletion is durable."""

    def unfinished(self) -> int:
        with self._lock:
            return len(self._uploads)

    def discard_unfinished(self) -> int:
        with self._lock:
            count = len(self._uploads)
            self._uploads.clear()
        return count

    def follow(self) -> bool:
        return False
