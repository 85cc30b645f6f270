"""An object of a backend in memory, open for reading."""

import os
from collections.abc import Callable
from pathlib import Path

from cbtfs.native import PackFile
from cbtfs.store.backend.base import Buffers


class OpenedBytes:
    """An object open for reading: an anonymous file, so that compiled code can read it."""

    def __init__(
        self, path: Path, data: bytes, is_removed: Callable[[], bool] = lambda: False
    ) -> None:
        self.path = path
        self.size = len(data)
        self._data = data
        self._is_removed = is_removed
        fd = os.memfd_create("object", os.MFD_CLOEXEC)
        os.write(fd, data)
        self.file = PackFile(fd)

    @property
    def is_removed(self) -> bool:
        return self._is_removed()

    def read_into(self, buffers: Buffers, offset: int) -> int:
        done = 0
        for buffer in buffers:
            part = self._data[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    def data_from(self, offset: int) -> int:
        return offset

    def fetch(self, offset: int, length: int) -> None:
        """Do nothing: all bytes are here."""

    def fetch_again(self, offset: int, length: int) -> bool:
        return False

    def pin(self) -> None:
        """Do nothing: all bytes are here."""
