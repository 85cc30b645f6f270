"""The files of a guest as one tree, from the file systems of its volumes."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cbtfs.ahead import ahead
from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import Folder, scan_by_entries
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    Entry,
    FileExtent,
    FileSystem,
    GuestFileMissing,
    Kind,
)
from cbtfs.files.volumes import Nothing, Volume

_LARGE_BYTES: Final = 8 << 20
"""Size of a file from which threads are worth their start."""
_Data = TypeVar("_Data", bytes, bytes | memoryview)
_MAX_LINKS: Final = 40
"""Links that the path of one file may contain, as in Linux."""


@dataclass(frozen=True, slots=True)
class File:
    """A file in the tree of a guest."""

    path: str
    """Absolute path in the guest, without links."""
    entry: Entry
    volume: Volume
    file_system: FileSystem
    inner: str
    """Path in its file system."""

    @property
    def is_directory(self) -> bool:
        return self.entry.kind is Kind.DIRECTORY

    def target(self) -> str:
        """Return the text of a link."""
        return self.file_system.target(self.inner)

    def attributes(self) -> dict[str, bytes]:
        """Return the extended attributes."""
        return self.file_system.attributes(self.inner)

    def extents(self) -> Iterator[FileExtent]:
        """Yield the parts that are not holes, in ascending order."""
        yield from self.file_system.extents(self.inner)

    def parts(self) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield offset and bytes of each part that is not a hole, in ascending order.

        Those of a large file are read by several threads.

        Raises:
            CbtfsError: a part cannot be read.
        """
        if self.entry.size < _LARGE_BYTES:
            yield from map(self._load, self._pieces())
        else:
            yield from ahead(self._load, self._pieces())

    def _pieces(self) -> Iterator[tuple[int, FileExtent | bytes]]:
        """Yield the offset of each piece, and its bytes if only the engine can read them.

        An engine is called by this thread only.
        """
        for extent in self.extents():
            for at in range(extent.start, extent.end, MAX_READ_BYTES):
                length = min(MAX_READ_BYTES, extent.end - at)
                if extent.offset is None:
                    data = self.file_system.read(self.inner, at, length)
                    yield at, self._whole(data, length)
                else:
                    yield at, FileExtent(at, length, extent.offset + at - extent.start)

    def _load(self, piece: tuple[int, FileExtent | bytes]) -> tuple[int, bytes | memoryview]:
        at, content = piece
        if not isinstance(content, FileExtent):
            return at, content
        assert content.offset is not None
        data = self.volume.source.read(content.offset, content.length)
        return at, self._whole(data, content.length)

    def _whole(self, data: _Data, length: int) -> _Data:
        if len(data) < length:
            raise GuestFileMissing(f"{self.path}: the file is shorter than its directory states")
        return data


class GuestTree:
    """The tree of a guest. File systems are opened at their first access."""

    def __init__(
        self, places: Mapping[str, Volume], open_file_system: Callable[[Volume], FileSystem]
    ) -> None:
        """*places*: volumes by the path where the guest mounts them.

        *open_file_system* is called once for each volume; the caller closes what it returns.
        Without a volume at "/" the directories above the places are made up.
        """
        self._places = {
            tuple(path.strip("/").split("/") if path != "/" else ()): volume
            for path, volume in places.items()
        }
        self._open = open_file_system
        self._opened: dict[str, FileSystem] = {}

    @property
    def opened(self) -> Mapping[str, FileSystem]:
        """The file systems that were accessed, by the name of their volume."""
        return self._opened

    def find(self, path: str, *, follows: bool = False) -> File:
        """Return the file with a path in the guest.

        Links in the directories of the path are followed within the guest; a link as the last
        component is followed if *follows*.

        Raises:
            GuestFileMissing: no file has that path.
            CbtfsError: a file system cannot be read.
        """
        remaining, current = deque(_split(path)), list[str]()
        file = self.at(())
        links = 0
        while remaining:
            name = remaining.popleft()
            if name == "..":
                del current[-1:]
                file = self.at(tuple(current))
                continue
            if not file.is_directory:
                raise GuestFileMissing(f"{path}: {file.path} is not a directory")
            next_file = self.at((*current, name))
            if next_file.entry.kind is Kind.LINK and (remaining or follows):
                links += 1
                if links > _MAX_LINKS:
                    raise GuestFileMissing(f"{path}: more than {_MAX_LINKS} links")
                target = next_file.target()
                if target.startswith("/"):
                    current.clear()
                    file = self.at(())
                remaining.extendleft(reversed(_split(target)))
                continue
            file = next_file
            current.append(name)
        return file

    def entries(self, directory: File) -> Iterator[File]:
        """Yield the files in a directory, by name.

        Raises:
            CbtfsError: the directory cannot be read.
        """
        parent = tuple(_split(directory.path))
        entries = directory.file_system.entries(directory.inner)
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = (*parent, entry.name)
            if path in self._places:
                yield self._mounted(path, entry)
            elif directory.volume is _NO_VOLUME:
                yield self._made_up(path)
            else:
                yield File(
                    _join(directory.path, entry.name),
                    entry,
                    directory.volume,
                    directory.file_system,
                    _join(directory.inner, entry.name),
                )

    def _mounted(self, path: tuple[str, ...], entry: Entry) -> File:
        """Return the root of the file system that is mounted at a path, if it can be read."""
        try:
            return self.at(path)
        except CbtfsError as exc:
            volume = self._places[path]
            placed = replace(entry, defect=str(exc))
            return File("/" + "/".join(path), placed, volume, _Unreadable(exc), "/")

    def at(self, path: tuple[str, ...]) -> File:
        """Return the file with that path, in which no component is a link.

        Raises:
            GuestFileMissing: no file has that path.
            CbtfsError: its file system cannot be read.
        """
        for length in range(len(path), -1, -1):
            volume = self._places.get(path[:length])
            if volume is not None:
                break
        else:
            return self._made_up(path)
        file_system = self.file_system(volume)
        inner = "/" + "/".join(path[length:])
        entry = file_system.stat(inner)
        if not path[length:]:
            entry = replace(entry, name=path[-1] if path else "")
        return File("/" + "/".join(path), entry, volume, file_system, inner)

    def _made_up(self, path: tuple[str, ...]) -> File:
        """Return a directory above the places that no volume has."""
        names = sorted({place[len(path)] for place in self._places if place[: len(path)] == path})
        shown = "/" + "/".join(path)
        if not names:
            raise GuestFileMissing(f"{shown}: no such file")
        entry = _directory(path[-1] if path else "")
        return File(shown, entry, _NO_VOLUME, _MadeUp(names), "/")

    def file_system(self, volume: Volume) -> FileSystem:
        """Return the file system of a volume of the tree, which is opened once.

        Raises:
            CbtfsError: it cannot be opened.
        """
        file_system = self._opened.get(volume.name)
        if file_system is None:
            file_system = self._opened[volume.name] = self._open(volume)
        return file_system


_NO_VOLUME: Final = Volume("", Nothing())


def _directory(name: str) -> Entry:
    return Entry(name, Kind.DIRECTORY, 0, mode=0o755)


class _MadeUp:
    """A directory of places."""

    engine = ""
    kind = ""
    notes: Sequence[str] = ()

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def stat(self, path: str) -> Entry:
        return _directory("")

    def entries(self, path: str) -> Iterator[Entry]:
        yield from map(_directory, self._names)

    def read(self, path: str, offset: int, length: int) -> bytes:
        raise GuestFileMissing(f"{path}: not a file")

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        raise GuestFileMissing(f"{path}: not a file")

    def target(self, path: str) -> str:
        raise GuestFileMissing(f"{path}: not a link")

    def attributes(self, path: str) -> dict[str, bytes]:
        return {}

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        yield from scan_by_entries(self, areas)

    def reads(self) -> list[Extent]:
        return []

    def close(self) -> None:
        """Do nothing."""


class _Unreadable:
    """A file system that cannot be opened: every access raises the reason."""

    engine = ""
    kind = ""
    notes: Sequence[str] = ()

    def __init__(self, reason: CbtfsError) -> None:
        self._reason = reason

    def stat(self, path: str) -> Entry:
        raise self._reason

    def entries(self, path: str) -> Iterator[Entry]:
        raise self._reason

    def read(self, path: str, offset: int, length: int) -> bytes:
        raise self._reason

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        raise self._reason

    def target(self, path: str) -> str:
        raise self._reason

    def attributes(self, path: str) -> dict[str, bytes]:
        raise self._reason

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        raise self._reason

    def reads(self) -> list[Extent]:
        raise self._reason

    def close(self) -> None:
        """Do nothing: nothing was opened."""


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
