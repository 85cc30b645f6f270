"""The folder of packs: what there is, and a bounded number of open ones."""

import os
import re
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

_FOLDER = re.compile(r"[0-9a-f]{2}\Z")
_PACK = re.compile(r"[0-9a-f]{32}\Z")


class PackFolder:
    """packs/: safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """DataCorrupt if there is no directory at *path*, or a link to one."""
        self._folder = open_folder(path)
        self._open: OrderedDict[PackId, Pack] = OrderedDict()
        self._lock = threading.Lock()

    def path(self, pack: PackId) -> Path:
        """Where the pack is, for messages and for the curious."""
        return self._folder.path / pack[:2] / pack

    def ids(self) -> set[PackId]:
        """The packs that are closed."""
        return {PackId(name) for _, name in self._files() if _PACK.match(name)}

    def remove_leftovers(self) -> int:
        """Remove packs that a dead writer left open; how many. Only for the one writer."""
        leftovers = self._leftovers()
        for folder, name in leftovers:
            inner = self._folder.inner(folder)
            remove(inner.at / name)
        return len(leftovers)

    def count_leftovers(self) -> int:
        """How many packs a writer left open; one that is at work has one, too."""
        return len(self._leftovers())

    def _leftovers(self) -> list[tuple[str, str]]:
        return [each for each in self._files() if each[1].endswith(OPEN_SUFFIX)]

    def _files(self) -> Iterator[tuple[str, str]]:
        """Folder and name of all there is; no paths are made, as there may be ten thousands."""
        with os.scandir(self._folder.at) as folders:
            for folder in folders:
                if _FOLDER.match(folder.name) and folder.is_dir(follow_symlinks=False):
                    inner = self._folder.inner(folder.name)
                    for name in os.listdir(inner.at):
                        yield folder.name, name

    def create(self, pack: PackId) -> PackWriter:
        """A new pack; DataCorrupt if its directory is a link."""
        make_folder(self._folder.at / pack[:2])
        return PackWriter(pack, self._folder.inner(pack[:2]))

    def open(self, pack: PackId) -> Pack:
        """The pack of that id; ChunkMissing if there is none."""
        with self._lock:
            found = self._open.get(pack)
            if found is not None:
                self._open.move_to_end(pack)
                return found
        try:
            found = self._opened(pack)
        except FileNotFoundError as exc:
            raise ChunkMissing(f"pack {pack} is gone") from exc
        except OSError as exc:
            raise DataCorrupt(f"cannot open pack {pack}: {exc.strerror}") from exc
        with self._lock:
            self._open[pack] = found
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return found

    def _opened(self, pack: PackId) -> Pack:
        """Open a pack; where this process may have no more files, close others first."""
        try:
            return self._open_file(pack)
        except OutOfResources:
            with self._lock:
                if not self._open:
                    raise
                self._open.clear()
            return self._open_file(pack)
        except FileNotFoundError:
            if not self._folder.reopen():  # A copy may have been put in its place.
                raise
            return self._open_file(pack)

    def _open_file(self, pack: PackId) -> Pack:
        folder = self._folder.inner(pack[:2])
        return Pack(folder.at / pack, folder.path / pack)

    def size(self, pack: PackId) -> int:
        """Bytes of the pack's file; OSError if it cannot be told."""
        folder = self._folder.inner(pack[:2])
        return os.stat(folder.at / pack, follow_symlinks=False).st_size

    def frames(self, pack: PackId) -> tuple[list[Frame], str | None]:
        """The frames of a pack, and what is wrong with its trailer if it had to be scanned."""
        found = self.open(pack)
        try:
            return found.trailer(), None
        except DataCorrupt as exc:
            return list(found.scan()), str(exc)

    def remove(self, pack: PackId) -> None:
        """Remove a pack that nothing is looked for in."""
        with self._lock:
            self._open.pop(pack, None)
        try:
            folder = self._folder.inner(pack[:2])
        except FileNotFoundError:
            return
        (folder.at / pack).unlink(missing_ok=True)

    def close_removed(self) -> None:
        """Let go of open packs that were removed.

        Their room is free once nobody else refers to their files.
        """
        with self._lock:
            removed = [each for each, found in self._open.items() if found.is_removed]
            for pack in removed:
                del self._open[pack]

    def forget_open(self) -> None:
        """Let go of every open pack: a pack of that name may be another file now."""
        self._folder.reopen()
        with self._lock:
            self._open.clear()
