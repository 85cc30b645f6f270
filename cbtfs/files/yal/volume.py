"""Files of a file system that a library of libyal parses, by path."""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import Folder, scan_by_entries
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
    Kind,
)
from cbtfs.volumes.source import Source

YalEntry = Any
"""A `file_entry` of one of the libraries, which have no types."""
_DIRECTORIES: Final = 16
_MAX_MESSAGE: Final = 200


class Format(Protocol):
    """Access to the files of one format."""

    kind: str

    def open(self, file: "VolumeFile") -> YalEntry:
        """Open the volume, and return its root directory."""

    def names(self, directory: YalEntry) -> Iterator[tuple[str, YalEntry]]:
        """Yield the files in a directory."""

    def entry(self, name: str, file: YalEntry) -> Entry:
        """Return the facts of a file."""

    def extents(self, file: YalEntry, size: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield start, length and offset on the volume of the parts that are not holes."""

    def target(self, file: YalEntry) -> str:
        """Return the text of a link."""

    def attributes(self, file: YalEntry) -> dict[str, bytes]:
        """Return the extended attributes of a file."""


class VolumeFile(io.RawIOBase):
    """A volume as a file object. An error of the volume is kept: the library hides it."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._at = 0
        self.failure: CbtfsError | None = None

    def get_size(self) -> int:
        """Return the size of the volume."""
        return self._source.size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        length = self._source.size - self._at if size < 0 else size
        try:
            data = bytes(self._source.read(self._at, max(length, 0)))
        except CbtfsError as exc:
            self.failure = exc
            raise OSError("the volume cannot be read") from exc
        self._at += len(data)
        return data


class YalVolume:
    """A file system. All methods take paths; see FileSystem for the errors."""

    def __init__(self, source: Source, form: Format, notes: Sequence[str] = ()) -> None:
        """Open the file system of *source*."""
        self.kind = form.kind
        self.notes: Sequence[str] = notes
        self._format = form
        self._file = VolumeFile(source)
        self._directories: OrderedDict[str, dict[str, YalEntry]] = OrderedDict()
        with self._parsing():
            self._root = form.open(self._file)

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        """Turn errors of the library into those of the protocol."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, OverflowError, TypeError, SystemError) as exc:
            if self._file.failure is not None:
                failure, self._file.failure = self._file.failure, None
                raise failure from exc
            raise FileSystemDamaged(str(exc)[:_MAX_MESSAGE]) from exc

    def _find(self, path: str) -> YalEntry:
        file, walked = self._root, ""
        for name in filter(None, path.split("/")):
            if self._format.entry(name, file).kind is not Kind.DIRECTORY:
                raise GuestFileMissing(f"{path}: no such file")
            file = self._names(walked, file).get(name)
            if file is None:
                raise GuestFileMissing(f"{path}: no such file")
            walked += f"/{name}"
        return file

    def _names(self, path: str, directory: YalEntry) -> dict[str, YalEntry]:
        known = self._directories.get(path)
        if known is None:
            known = {}
            for name, file in self._format.names(directory):
                if not name or "/" in name or "\0" in name or name in (".", ".."):
                    raise FileSystemDamaged(f"{path}/: a name is not possible")
                known[name] = file
            self._directories[path] = known
            if len(self._directories) > _DIRECTORIES:
                self._directories.popitem(last=False)
        else:
            self._directories.move_to_end(path)
        return known

    def stat(self, path: str) -> Entry:
        """Return the entry of a path."""
        with self._parsing():
            return self._format.entry(path.rpartition("/")[2], self._find(path))

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the entries of a directory."""
        with self._parsing():
            directory = self._of_kind(path, Kind.DIRECTORY)
            found = [
                self._entry(*item) for item in self._names(path.rstrip("/"), directory).items()
            ]
        yield from found

    def _entry(self, name: str, file: YalEntry) -> Entry:
        try:
            with self._parsing():
                return self._format.entry(name, file)
        except FileSystemDamaged as exc:
            return Entry(name, Kind.UNKNOWN, 0, defect=f"damaged: {exc}")

    def _of_kind(self, path: str, kind: Kind) -> YalEntry:
        file = self._find(path)
        entry = self._format.entry(path.rpartition("/")[2], file)
        if entry.kind is not kind:
            raise GuestFileMissing(f"{path}: not a {kind.value}")
        if entry.defect is not None:
            raise FileSystemUnsupported(f"{path}: {entry.defect}")
        return file

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a file."""
        with self._parsing():
            file = self._of_kind(path, Kind.FILE)
            size = self._format.entry("", file).size
            length = min(length, size - offset)
            if length <= 0:
                return b""
            data: bytes = file.read_buffer_at_offset(length, offset)
            if len(data) < length:
                raise FileSystemDamaged(f"{path}: its content ends early")
            return data

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the extents of a file from *offset* on."""
        with self._parsing():
            file = self._of_kind(path, Kind.FILE)
            size = self._format.entry("", file).size
            parts = list(self._format.extents(file, size))
        end = 0
        for start, length, place in parts:
            if start < end or length <= 0:
                raise FileSystemDamaged(f"{path}: its extents are not in order")
            end = start + length
            first, stop = max(start, offset), min(end, size)
            if first < stop:
                yield FileExtent(
                    first, stop - first, None if place is None else place + first - start
                )

    def target(self, path: str) -> str:
        """Return the text of a link."""
        with self._parsing():
            return self._format.target(self._of_kind(path, Kind.LINK))

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes of a file."""
        with self._parsing():
            return self._format.attributes(self._find(path))

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        """Yield all directories of the file system."""
        yield from scan_by_entries(self, areas)


def whole(size: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield the parts of a content that only the library can read."""
    for start in range(0, size, MAX_READ_BYTES):
        yield start, min(MAX_READ_BYTES, size - start), None


Opener = Callable[[Source], YalVolume]
