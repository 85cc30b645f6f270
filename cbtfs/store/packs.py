"""The directory packs/, with a bounded number of open packs."""

import os
import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cbtfs.core.frame import Frame
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt, OutOfResources
from cbtfs.store.files import make_folder, remove
from cbtfs.store.folder import open_folder
from cbtfs.store.pack import OPEN_SUFFIX, Pack, PackWriter

_MAX_OPEN: Final = 128
"""Packs that stay open; a quarter of the process's limit of open files if that is less."""

_FOLDER = re.compile(r"[0-9a-f]{2}\Z")
_PACK = re.compile(r"[0-9a-f]{32}\Z")


class PackFolder:
    """The directory packs/. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the directory at *path*; DataCorrupt if it is missing or a link."""
        self._folder = open_folder(path)
        self._open: OrderedDict[PackId, Pack] = OrderedDict()
        self._lock = threading.Lock()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_open = _MAX_OPEN if files < 0 else max(min(_MAX_OPEN, files // 4), 1)

    def close(self) -> None:
        """Close the directory and all packs that nobody else refers to."""
        with self._lock:
            self._open.clear()
        self._folder.close()

    def path(self, pack: PackId) -> Path:
        """Return the path of a pack, for messages."""
        return self._folder.path / pack[:2] / pack

    def ids(self) -> set[PackId]:
        """Return the closed packs."""
        return {PackId(name) for _, name in self._files() if _PACK.match(name)}

    def remove_leftovers(self) -> int:
        """Remove packs that a stale writer left open; return their number. Only for the writer."""
        leftovers = self._leftovers()
        for folder, name in leftovers:
            with self._folder.inner(folder) as inner:
                remove(inner.at / name)
        return len(leftovers)

    def count_leftovers(self) -> int:
        """Return the number of open packs, including those of an active writer."""
        return len(self._leftovers())

    def _leftovers(self) -> list[tuple[str, str]]:
        return [(folder, name) for folder, name in self._files() if name.endswith(OPEN_SUFFIX)]

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield folder and name of all files; no paths, because there may be tens of thousands."""
        with os.scandir(self._folder.at) as folders:
            for folder in folders:
                if _FOLDER.match(folder.name) and folder.is_dir(follow_symlinks=False):
                    with self._folder.inner(folder.name) as inner:
                        names = os.listdir(inner.at)
                    for name in names:
                        yield folder.name, name

    def create(self, pack: PackId) -> PackWriter:
        """Create a pack; DataCorrupt if its directory is a link."""
        make_folder(self._folder.at / pack[:2])
        return PackWriter(pack, self._folder.inner(pack[:2]))

    def open(self, pack: PackId) -> Pack:
        """Return the open pack with this id; ChunkMissing if it does not exist."""
        with self._lock:
            opened = self._open.get(pack)
            if opened is not None:
                self._open.move_to_end(pack)
                return opened
        try:
            opened = self._opened(pack)
        except FileNotFoundError as exc:
            raise ChunkMissing(f"pack {pack} is gone") from exc
        except OSError as exc:
            raise DataCorrupt(f"cannot open pack {pack}: {exc.strerror}") from exc
        with self._lock:
            self._open[pack] = opened
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return opened

    def _opened(self, pack: PackId) -> Pack:
        """Open a pack; if this process has no descriptor left, close the other packs first."""
        try:
            return self._open_file(pack)
        except OutOfResources:
            with self._lock:
                if not self._open:
                    raise
                self._open.clear()
            return self._open_file(pack)
        except FileNotFoundError:
            if not self._folder.reopen():  # A copy may have replaced the directory.
                raise
            return self._open_file(pack)

    def _open_file(self, pack: PackId) -> Pack:
        with self._folder.inner(pack[:2]) as folder:
            return Pack(folder.at / pack, folder.path / pack)

    def size(self, pack: PackId) -> int:
        """Return the size of the pack's file in bytes; OSError if that fails."""
        with self._folder.inner(pack[:2]) as folder:
            return os.stat(folder.at / pack, follow_symlinks=False).st_size

    def frames(self, pack: PackId) -> tuple[list[Frame], str | None]:
        """Return the frames of a pack, and the error of its trailer if it had to be scanned."""
        opened = self.open(pack)
        try:
            return opened.trailer(), None
        except DataCorrupt as exc:
            return list(opened.scan()), str(exc)

    def remove(self, pack: PackId) -> None:
        """Remove a pack that the catalog does not refer to any more."""
        with self._lock:
            self._open.pop(pack, None)
        try:
            folder = self._folder.inner(pack[:2])
        except FileNotFoundError:
            return
        with folder:
            (folder.at / pack).unlink(missing_ok=True)

    def close_removed(self) -> None:
        """Close open packs that were deleted, so that their space becomes free."""
        with self._lock:
            removed = [pack for pack, opened in self._open.items() if opened.is_removed]
            for pack in removed:
                del self._open[pack]

    def forget_open(self) -> None:
        """Close every open pack: its path may name another file now."""
        self._folder.reopen()
        with self._lock:
            self._open.clear()
