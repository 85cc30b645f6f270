"""The parser's process: answers calls about the file system of a volume that its parent serves."""

import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.engine_parse import frames, sandbox
from cbtfs.files.folder import Folder
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
)
from cbtfs.volumes.source import Source

_PAGE_BYTES: Final = 64 << 10
"""Unit of cached reads: the block size of repositories."""
_CACHED_PAGES: Final = 1 << 10
_EXTENTS_PER_CALL: Final = 4096
_MAX_READS: Final = 1 << 16
"""Reads that are noted; after more, the whole volume counts as read."""
_ERRORS: Final = (GuestFileMissing, FileSystemDamaged, FileSystemUnsupported)


class Parser(Protocol):
    """A parser of one file system, with the methods of FileSystem."""

    kind: str
    notes: Sequence[str]

    def stat(self, path: str) -> Entry: ...
    def entries(self, path: str) -> Iterator[Entry]: ...
    def read(self, path: str, offset: int, length: int) -> bytes: ...
    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]: ...
    def target(self, path: str) -> str: ...
    def attributes(self, path: str) -> dict[str, bytes]: ...
    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]: ...


class VolumeUnreadable(CbtfsError):
    """Raised if the parent cannot read the volume; the parent knows the reason."""


class ServedSource:
    """The volume, read through the parent in pages that are cached."""

    def __init__(self, channel: socket.socket, size: int) -> None:
        self.size = size
        self._channel = channel
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._reads: list[tuple[int, int]] = []

    def reads(self) -> list[tuple[int, int]]:
        """Return offset and length of each read since the last call, from the cache or not."""
        reads, self._reads = self._reads, []
        return reads if len(reads) < _MAX_READS else [(0, self.size)]

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length), fewer at the end of the volume."""
        end = min(offset + length, self.size)
        if not 0 <= offset < end:
            return b""
        if len(self._reads) < _MAX_READS:
            self._reads.append((offset, end - offset))
        first, last = offset // _PAGE_BYTES, (end - 1) // _PAGE_BYTES
        if first == last:
            start = offset - first * _PAGE_BYTES
            return self._page(first)[start : start + end - offset]
        if end - offset > 4 * _PAGE_BYTES:
            return b"".join(
                self._ask(at, min(MAX_READ_BYTES, end - at))
                for at in range(offset, end, MAX_READ_BYTES)
            )
        data = b"".join(self._page(page) for page in range(first, last + 1))
        start = offset - first * _PAGE_BYTES
        return data[start : start + end - offset]

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            at = number * _PAGE_BYTES
            page = self._pages[number] = self._ask(at, min(_PAGE_BYTES, self.size - at))
            if len(self._pages) > _CACHED_PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(number)
        return page

    def _ask(self, offset: int, length: int) -> bytes:
        frames.send(self._channel, frames.READ, frames.READ_REQUEST.pack(offset, length))
        kind, data = frames.receive(self._channel)
        if kind != frames.DATA:
            raise VolumeUnreadable("the volume cannot be read")
        return data


def load_parser(kind: str) -> Callable[[Source], Parser]:
    """Return a function that opens a file system of that kind; it loads no more modules."""
    if kind == "ntfs":
        from cbtfs.files.yal.ntfs import Ntfs
        from cbtfs.files.yal.volume import YalVolume

        return lambda source: YalVolume(source, Ntfs())
    if kind == "fat":
        from cbtfs.files.fat.volume import FatFileSystem

        return FatFileSystem
    from cbtfs.files.ext.replayed import ExtFileSystem

    return ExtFileSystem


class _Server:
    """Answers the calls of the parent."""

    def __init__(
        self, channel: socket.socket, source: ServedSource, open_file_system: Callable[[], Parser]
    ) -> None:
        self._channel = channel
        self._source = source
        self._open = open_file_system
        self._parser: Parser | None = None

    def serve(self) -> None:
        """Answer calls until the parent closes the channel."""
        while True:
            try:
                _, payload = frames.receive(self._channel)
            except EOFError:
                return
            try:
                self._answer(frames.decode(payload))
            except _ERRORS as exc:
                self._fail(type(exc).__name__, str(exc))
            except VolumeUnreadable as exc:
                self._fail("VolumeUnreadable", str(exc))
            except MemoryError:
                self._fail("EngineFailed", "the parser needs too much memory")
            except RecursionError:
                self._fail("FileSystemDamaged", "its structures are nested too deeply")

    def _fail(self, name: str, message: str) -> None:
        frames.send(self._channel, frames.ERROR, frames.encode([name, message]))

    def _answer(self, call: dict[str, Any]) -> None:
        if self._parser is None:
            self._parser = self._open()
        parser, path = self._parser, call["path"]
        match call["operation"]:
            case "open":
                self._value([parser.kind, *parser.notes])
            case "stat":
                self._value(frames.from_entry(parser.stat(path)))
            case "entries":
                self._items(map(frames.from_entry, parser.entries(path)))
            case "read":
                data = parser.read(path, call["offset"], call["length"])
                frames.send(self._channel, frames.CONTENT, data)
            case "extents":
                extents = islice(parser.extents(path, call["offset"]), _EXTENTS_PER_CALL)
                self._items(map(frames.from_extent, extents))
            case "target":
                target = parser.target(path)
                _require_arguments([target], f"{path}: the target of the link")
                self._value(target)
            case "attributes":
                attributes = parser.attributes(path)
                _require_arguments(attributes, f"{path}: the name of an attribute")
                self._value({name: data.hex() for name, data in attributes.items()})
            case "scan":
                areas = call["areas"]
                extents_of = None if areas is None else [Extent(a, e - a) for a, e in areas]
                for batch in frames.from_folders(parser.scan(extents_of)):
                    frames.send(self._channel, frames.ITEMS, frames.encode(batch))
                self._value(None)
            case "reads":
                reads = [FileExtent(0, length, at) for at, length in self._source.reads()]
                self._items(map(frames.from_extent, reads))

    def _value(self, value: Any) -> None:
        frames.send(self._channel, frames.VALUE, frames.encode(value))

    def _items(self, items: Iterable[Any]) -> None:
        remaining = iter(items)
        while batch := list(islice(remaining, frames.ITEMS_PER_MESSAGE)):
            frames.send(self._channel, frames.ITEMS, frames.encode(batch))
        self._value(None)


def _require_arguments(texts: Iterable[str], what: str) -> None:
    """Raise FileSystemDamaged if no system call could have got one of *texts* from the guest."""
    if not all(map(frames.is_argument, texts)):
        raise FileSystemDamaged(f"{what} is damaged")


def serve(descriptor: int, kind: str, size: int) -> None:
    """Enter the sandbox and serve the parent at the socket *descriptor*."""
    with socket.socket(fileno=descriptor) as channel:
        source = ServedSource(channel, size)
        open_file_system = load_parser(kind)
        sandbox.enter()
        _Server(channel, source, lambda: open_file_system(source)).serve()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
