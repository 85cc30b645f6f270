"""The parent's side of a parser: starts it, serves its reads, checks its answers."""

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.engine_parse import frames, sandbox
from cbtfs.files.engine_parse.processes import ParserProcess, Parsers, StartedParsers
from cbtfs.files.folder import Folder
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    EngineFailed,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
)
from cbtfs.volumes.source import Source

ENGINE: Final = "parse"
CALL_SECONDS: Final = 60.0
"""Longest time that a parser may compute for one call; the time of reads does not count."""
_MIN_CALL_BYTES: Final = 16 << 30
"""Bytes that a call may read from a small volume; from a large one, twice its size."""
_MAX_ENTRIES: Final = 10_000_000
"""Longest listing of a directory."""
_MAX_AREAS: Final = 1 << 17
"""Areas of one scan."""
_ERRORS: Final[dict[str, type[CbtfsError]]] = {
    error.__name__: error
    for error in (GuestFileMissing, FileSystemDamaged, FileSystemUnsupported, EngineFailed)
}


class ParsedFileSystem:
    """A file system that a child process parses. The next call replaces a child that failed."""

    engine = ENGINE

    def __init__(
        self,
        source: Source,
        parser: str,
        seconds: float = CALL_SECONDS,
        parsers: Parsers | None = None,
    ) -> None:
        """Open a file system on *source* with a parser: "ext", "fat" or "ntfs".

        *parsers*: starts its process; None starts an interpreter.

        Raises:
            FileSystemDamaged, FileSystemUnsupported: the parser refuses it.
            EngineFailed: the parser cannot start.
            CbtfsError: the volume cannot be read.
        """
        if not sandbox.is_supported():
            raise EngineFailed("the engine parse needs an x86-64 or ARM64 machine")
        self._source = source
        self._seconds = seconds
        self._parsers = parsers or StartedParsers(parser)
        self._process: ParserProcess | None = None
        self.kind = parser
        self.notes: Sequence[str] = ()
        try:
            with self._checked():
                facts = self._call("open", "")
                if not isinstance(facts, list) or not facts:
                    raise EngineFailed("the parser sent an invalid answer")
                self.kind, *self.notes = map(frames.text, facts)
        except BaseException:
            self.close()
            raise

    def stat(self, path: str) -> Entry:
        """Return the file with that path; a link is not followed."""
        with self._checked():
            return frames.to_entry(self._call("stat", path))

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the files in a directory in any order."""
        entries: list[Entry] = []
        with self._checked():
            for items in self._messages("entries", path):
                entries += map(frames.to_entry, items)
                if len(entries) > _MAX_ENTRIES:
                    raise EngineFailed(f"{path}: more than {_MAX_ENTRIES} files")
        yield from entries

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a file, fewer only at its end."""
        with self._checked():
            data = self._call("read", path, offset=offset, length=min(length, MAX_READ_BYTES))
            if not isinstance(data, bytes) or len(data) > length:
                raise EngineFailed("the parser sent an invalid answer")
            return data

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the parts of a file from *offset* on that are not holes, in ascending order."""
        while True:
            batch: list[FileExtent] = []
            with self._checked():
                for items in self._messages("extents", path, offset=offset):
                    batch += [frames.to_extent(item, self._source.size) for item in items]
                for extent in batch:
                    if extent.start < offset:
                        raise EngineFailed("the parser sent an invalid answer")
                    offset = extent.end
            yield from batch
            if not batch:
                return

    def target(self, path: str) -> str:
        """Return the text of a symbolic link."""
        with self._checked():
            return frames.to_target(self._call("target", path))

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes."""
        with self._checked():
            return frames.to_attributes(self._call("attributes", path))

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        """Yield all directories of the file system. The caller takes them all, or closes this."""
        sent = None if areas is None else frames.from_areas(areas, _MAX_AREAS)
        count = 0
        with self._checked(), self._unfinished():
            for items in self._messages("scan", "", is_long=True, areas=sent):
                for item in items:
                    folder = frames.to_folder(item, _ERRORS)
                    count += 1 + len(folder.names)
                    if count > _MAX_ENTRIES:
                        raise EngineFailed(f"more than {_MAX_ENTRIES} files")
                    yield folder

    def reads(self) -> list[Extent]:
        """Return the bytes of the volume that were read since the last call, or since the start."""
        with self._checked():
            answers = self._messages("reads", "")
            extents = [
                frames.to_extent(item, self._source.size) for items in answers for item in items
            ]
            return [Extent(e.offset, e.length) for e in extents if e.offset is not None]

    def close(self) -> None:
        """End the child."""
        self._end()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        """End a child that sends an invalid answer or fails."""
        try:
            yield
        except EngineFailed:
            self._end()
            raise

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[None]:
        """End a child whose answer the caller does not take to its end."""
        try:
            yield
        except GeneratorExit:
            self._end()
            raise

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _call(self, operation: str, path: str, **more: Any) -> Any:
        """Return the value of a call, or its bytes."""
        result = None
        for items in self._messages(operation, path, is_value_wanted=True, **more):
            result = items
        return result

    def _messages(
        self,
        operation: str,
        path: str,
        *,
        is_value_wanted: bool = False,
        is_long: bool = False,
        **more: Any,
    ) -> Iterator[Any]:
        """Yield the items of a call, or its value. The caller takes them all.

        *is_long*: the time of the call is limited for each message, not for all.
        """
        call = {"operation": operation, "path": path, **more}
        try:
            channel = self._started()
            frames.send(channel, frames.CALL, frames.encode(call))
            yield from self._answers(channel, is_value_wanted, is_long)
        except (OSError, EOFError) as exc:
            reason = self._reason(exc)
            raise EngineFailed(f"the parser of the file system failed: {reason}") from exc

    def _reason(self, exc: Exception) -> str:
        if isinstance(exc, TimeoutError):
            return f"it needs more than {self._seconds:g} s"
        code = None if self._process is None else self._process.exit_code()
        if code is not None:
            return f"it ended with signal {-code}" if code < 0 else f"it ended with {code}"
        return str(exc)

    def _answers(
        self, channel: socket.socket, is_value_wanted: bool, is_long: bool
    ) -> Iterator[Any]:
        remaining = self._seconds
        budget = max(_MIN_CALL_BYTES, 2 * self._source.size)
        failure: CbtfsError | None = None
        while True:
            channel.settimeout(max(remaining, 0.001))
            start = time.monotonic()
            kind, payload = frames.receive(channel)
            remaining -= time.monotonic() - start
            if kind == frames.READ:
                offset, length = self._request(payload)
                budget -= length
                if budget < 0 or remaining <= 0:
                    raise TimeoutError
                try:
                    data = self._source.read(offset, length)
                except CbtfsError as exc:
                    failure = exc
                    frames.send(channel, frames.FAILED)
                else:
                    frames.send(channel, frames.DATA, data)
            elif kind == frames.ITEMS:
                items = frames.decode(payload)
                if not isinstance(items, list) or len(items) > frames.ITEMS_PER_MESSAGE:
                    raise EngineFailed("the parser sent an invalid answer")
                if is_long:
                    remaining = self._seconds
                yield items
            elif kind == frames.VALUE:
                if is_value_wanted:
                    yield frames.decode(payload)
                return
            elif kind == frames.CONTENT:
                yield payload
                return
            elif kind == frames.ERROR:
                raise failure or _error(frames.decode(payload))
            else:
                raise EngineFailed("the parser sent an invalid answer")

    def _request(self, payload: bytes) -> tuple[int, int]:
        """Return offset and length of a read, which lies on the volume."""
        if len(payload) != frames.READ_REQUEST.size:
            raise EngineFailed("the parser sent an invalid answer")
        offset, length = frames.READ_REQUEST.unpack(payload)
        if length > MAX_READ_BYTES or offset + length > self._source.size:
            raise EngineFailed("the parser sent an invalid answer")
        return offset, length

    def _started(self) -> socket.socket:
        if self._process is None:
            self._process = self._parsers.start(self._source.size)
        return self._process.channel


def _error(value: Any) -> CbtfsError:
    """Return the error of a message."""
    match value:
        case [str(name), str(message)] if name in _ERRORS:
            return _ERRORS[name](message)
    return EngineFailed("the parser sent an invalid answer")
