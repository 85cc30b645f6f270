"""Objects of a bucket that are read through a local tier."""

import errno
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from cbtfs.core.frame import MAX_PACK_BYTES
from cbtfs.store.backend.base import Buffers, Content, Head, Upload
from cbtfs.store.backend.objects import Objects
from cbtfs.store.backend.tier import EXTENT, NO_SPACE, Tier, TierFile
from cbtfs.store.files import scatter

log = logging.getLogger(__name__)

_TAIL: Final = 128 << 10
"""Bytes at the end that are read when an object is first opened: a pack's trailer and footer."""
_HEAD: Final = 4 << 10
"""Bytes at the start that are read without the rest of their extent: the header of a pack."""


class TieredObject:
    """An object open for reading; its extents are fetched when they are first read."""

    def __init__(self, tiered: "Tiered", name: str, copy: TierFile, tail: bytes | None) -> None:
        """*tail* are the last bytes, if they were read already."""
        self._tiered = tiered
        self._name = name
        self._copy = copy
        self._tail = tail
        self._head: bytes | None = None
        self.path = tiered.path(name)
        self.size = copy.size
        self.file = copy.file

    @property
    def is_removed(self) -> bool:
        return self._copy.is_dropped

    def read_into(self, buffers: Buffers, offset: int) -> int:
        length = min(sum(map(len, buffers)), max(self.size - offset, 0))
        if not self._copy.missing(offset, length):
            return self._copy.read_into(buffers, offset)
        data = self._edge(offset, length)
        if data is None:
            if self._is_fetched(offset, length):
                return self._copy.read_into(buffers, offset)
            data = self._tiered.get(self._name, offset, length).data  # There is no local space.
        return scatter(data, buffers)

    def _edge(self, offset: int, length: int) -> bytes | None:
        """Return bytes at the end that were read already, or at the start; None for others."""
        tail, head = self._tail, self._head  # Another thread may drop them.
        if tail is not None and offset >= (start := self.size - len(tail)):
            return tail[offset - start : offset - start + length]
        if offset + length > _HEAD:
            return None
        if head is None:
            head = self._head = self._tiered.get(self._name, 0, _HEAD).data
        return head[offset : offset + length]

    def data_from(self, offset: int) -> int:
        return min(offset, self.size)

    def fetch(self, offset: int, length: int) -> None:
        self._is_fetched(offset, length)

    def _is_fetched(self, offset: int, length: int) -> bool:
        """Fetch extents; return whether there was space."""
        missing = self._copy.missing(offset, length)
        return all(self._tiered.fetch(self._name, self._copy, extent) for extent in missing)

    def fetch_again(self, offset: int, length: int) -> bool:
        self._tail = self._head = None
        self._copy.discard(offset, length)
        return True

    def pin(self) -> None:
        self._copy.pin()


class Tiered:
    """A Backend: objects of a bucket with copies in a tier. Their names are at least two digits."""

    def __init__(self, objects: Objects, tier: Tier) -> None:
        """Own *objects*."""
        self._objects = objects
        self._tier = tier
        self._lock = threading.Lock()
        self._fetching: dict[tuple[str, int], Future[bool]] = {}
        self._is_full = False

    def open(self, name: str) -> TieredObject:
        size, tail = self._tier.known_size(name), None
        if size is None:
            content = self._objects.get_tail(name, _TAIL)
            size, tail = content.head.size, content.data
            if size > MAX_PACK_BYTES:
                raise OSError(errno.EFBIG, f"{size} bytes are more than a pack has")
        return TieredObject(self, name, self._tier.open(name, size), tail)

    def fetch(self, name: str, copy: TierFile, extent: int) -> bool:
        """Fetch an extent, once for all callers; return whether there was space."""
        key = name, extent
        with self._lock:
            fetching = self._fetching.get(key)
            if fetching is None:
                mine = self._fetching[key] = Future()
        if fetching is not None:
            return fetching.result()
        try:
            is_stored = self._store(name, copy, extent)
        except BaseException as exc:
            with self._lock:
                del self._fetching[key]
            mine.set_exception(exc)
            mine.exception()
            raise
        with self._lock:
            del self._fetching[key]
        mine.set_result(is_stored)
        return is_stored

    def _store(self, name: str, copy: TierFile, extent: int) -> bool:
        with copy.fetching(extent):
            if not copy.missing(extent * EXTENT, 1):
                return True  # Another process has fetched it meanwhile.
            return self._load(name, copy, extent)

    def _load(self, name: str, copy: TierFile, extent: int) -> bool:
        start = extent * EXTENT
        data = self._objects.get(name, start, min(EXTENT, copy.size - start)).data
        for is_second in (False, True):
            try:
                copy.store(extent, data)
            except OSError as exc:
                if exc.errno not in NO_SPACE:
                    raise
                if is_second:
                    if not self._is_full:
                        self._is_full = True
                        log.warning("no space in the tier: reads are not kept")
                    return False
                self._tier.make_space(self._tier.used_bytes() // 2)
            else:
                break
        self._is_full = False
        self._tier.stored(len(data))
        return True

    def delete(self, name: str) -> None:
        self._objects.delete(name)
        self._tier.drop(name)

    def close(self) -> None:
        self._objects.close()

    def path(self, name: str) -> Path:
        return self._objects.path(name)

    def create(self, name: str, data: bytes) -> None:
        self._objects.create(name, data)

    def upload(self, name: str) -> Upload:
        return self._objects.upload(name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        return self._objects.get(name, offset, length)

    def names(self) -> Collection[str]:
        return self._objects.names()

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return self._objects.names_after(name, prefix)

    def sizes(self) -> Mapping[str, int]:
        return self._objects.sizes()

    def head(self, name: str) -> Head:
        return self._objects.head(name)

    def flush(self) -> None:
        """Do nothing: a deletion is durable."""

    def unfinished(self) -> int:
        return self._objects.unfinished()

    def discard_unfinished(self) -> int:
        return self._objects.discard_unfinished()

    def follow(self) -> bool:
        return self._objects.follow()
