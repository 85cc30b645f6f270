"""Messages between the parser and its parent, over one stream socket.

A message is a type of one byte, a length of four bytes, and a payload. The parent sends CALL, and
answers each READ with DATA or FAILED. The child ends its answer to a CALL with VALUE, CONTENT or
ERROR, after any number of ITEMS. The parent trusts nothing in a message of the child: decode() and
the functions that follow check types and bounds.
"""

import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn

from cbtfs.core.extent import Extent, coalesce
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import MAX_FOLDER, MAX_PATH, Folder
from cbtfs.files.protocol import EngineFailed, Entry, FileExtent, Kind

CALL: Final = b"C"
DATA: Final = b"D"
FAILED: Final = b"F"
READ: Final = b"R"
ITEMS: Final = b"I"
VALUE: Final = b"V"
CONTENT: Final = b"B"
ERROR: Final = b"E"

HEADER: Final = struct.Struct("<cI")
READ_REQUEST: Final = struct.Struct("<QI")
MAX_PAYLOAD: Final = 8 << 20
"""Longest payload that is accepted."""
ITEMS_PER_MESSAGE: Final = 512
_MAX_DEFECT: Final = 300
_MAX_NAME: Final = 1024
_TIME_LIMIT: Final = 1 << 66


def send(channel: socket.socket, kind: bytes, payload: bytes | memoryview = b"") -> None:
    """Send a message.

    Raises:
        OSError: the other side is gone.
    """
    channel.sendall(HEADER.pack(kind, len(payload)))
    if payload:
        channel.sendall(payload)


def receive(channel: socket.socket) -> tuple[bytes, bytes]:
    """Receive a message: type and payload.

    Raises:
        EOFError: the other side is gone, or sends too much.
        OSError: the connection failed, or is too slow.
    """
    kind, length = HEADER.unpack(_exactly(channel, HEADER.size))
    if length > MAX_PAYLOAD:
        raise EOFError("a message is too long")
    return kind, _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = channel.recv_into(view[done:])
        if not count:
            raise EOFError("the other side is gone")
        done += count
    return bytes(data)


def encode(value: Any) -> bytes:
    """Return *value* as JSON in ASCII; surrogates of names are kept."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def decode(payload: bytes) -> Any:
    """Return the value of a message of the child.

    Raises:
        EngineFailed: it is not JSON.
    """
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        _refuse()


def _refuse() -> NoReturn:
    raise EngineFailed("the parser sent an invalid answer")


def from_entry(entry: Entry) -> list[Any]:
    """Return an entry as a list for JSON."""
    return [
        entry.name,
        entry.kind.value,
        entry.inode,
        entry.mode,
        entry.links,
        entry.owner,
        entry.group,
        entry.size,
        entry.accessed_ns,
        entry.modified_ns,
        entry.changed_ns,
        entry.created_ns,
        entry.device,
        entry.defect,
    ]


def to_entry(fields: Any) -> Entry:
    """Return the entry of a message, checked.

    Raises:
        EngineFailed: it is no entry.
    """
    try:
        name, kind, *numbers, created, device, defect = fields
        inode, mode, links, owner, group, size, accessed, modified, changed = numbers
        if device is not None:
            major, minor = device
            device = _number(major, 1 << 12), _number(minor, 1 << 20)  # The bits that Linux has.
        return Entry(
            _name(name),
            Kind(kind),
            _number(inode, 1 << 64),
            _number(mode, 0o10000),
            _number(links, 1 << 32),
            _number(owner, 1 << 32),
            _number(group, 1 << 32),
            _number(size, 1 << 63),
            _time(accessed),
            _time(modified),
            _time(changed),
            None if created is None else _time(created),
            device,
            None if defect is None else text(defect)[:_MAX_DEFECT],
        )
    except (ValueError, TypeError):
        _refuse()


def _name(value: Any) -> str:
    name = text(value)
    if "/" in name or "\0" in name or name in (".", "..") or len(name) > _MAX_NAME:
        _refuse()
    return name


def text(value: Any) -> str:
    """Return *value*, which must be a text that system calls can have, apart from zero bytes."""
    if not isinstance(value, str):
        _refuse()
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # It has surrogates that no bytes have.
        _refuse()
    return value


def to_target(value: Any) -> str:
    """Return the text of a link of a message."""
    target = text(value)
    if not is_argument(target):
        _refuse()
    return target


def is_argument(value: str) -> bool:
    """Return whether a system call accepts a text: it is not empty and has no zero byte."""
    return value != "" and "\0" not in value


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        _refuse()
    return value


def _time(value: Any) -> int:
    if type(value) is not int or not -_TIME_LIMIT < value < _TIME_LIMIT:
        _refuse()
    return value


def from_extent(extent: FileExtent) -> list[Any]:
    """Return an extent as a list for JSON."""
    return [extent.start, extent.length, extent.offset]


def to_extent(fields: Any, volume_bytes: int) -> FileExtent:
    """Return the extent of a message, which lies on a volume of that size."""
    try:
        start, length, offset = fields
    except (ValueError, TypeError):
        _refuse()
    _number(start, 1 << 63)
    if _number(length, 1 << 63) == 0:
        _refuse()
    if offset is not None:
        _number(offset, volume_bytes)
        _number(offset + length - 1, volume_bytes)
    return FileExtent(start, length, offset)


def to_attributes(value: Any) -> dict[str, bytes]:
    """Return the extended attributes of a message."""
    if not isinstance(value, Mapping):
        _refuse()
    if not all(map(is_argument, map(text, value))):
        _refuse()
    try:
        return {name: bytes.fromhex(text(data)) for name, data in value.items()}
    except ValueError:
        _refuse()


_COLUMNS: Final = (
    *("modes", "inodes", "owners", "groups"),
    *("sizes", "modified", "layouts", "touched"),
)


def from_folders(folders: Iterable[Folder]) -> Iterator[list[Any]]:
    """Yield folders as lists for JSON, so that many fit into a message."""
    batch: list[Any] = []
    weight = 0
    for folder in folders:
        failure = folder.failure
        reason = None if failure is None else [type(failure).__name__, str(failure)]
        columns = [getattr(folder, name).tolist() for name in _COLUMNS]
        batch.append([folder.path, folder.names, *columns, reason])
        weight += len(folder.names) + len(folder.path) // 16 + 1
        if weight >= MAX_FOLDER:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def to_folder(fields: Any, errors: Mapping[str, type[CbtfsError]]) -> Folder:
    """Return the folder of a message, checked.

    Raises:
        EngineFailed: it is no folder.
    """
    try:
        path, names, *columns, reason = fields
        folder = Folder(_path(path))
        if not isinstance(names, list) or len(names) > MAX_FOLDER:
            _refuse()
        # One search for all names of a folder; a zero byte separates them.
        joined = text("\0".join(names))
        if "/" in joined or joined.count("\0") != max(len(names) - 1, 0):
            _refuse()
        for name in names:
            if not name or len(name) > _MAX_NAME or name in (".", ".."):
                _refuse()
        folder.names = names
        for column, values in zip(_COLUMNS, columns, strict=True):
            if column not in ("layouts", "touched") or values:
                getattr(folder, column).fromlist(values)
                if len(values) != len(names):
                    _refuse()
        if reason is not None:
            kind, message = reason
            folder.failure = errors[kind](text(message)[:_MAX_DEFECT])
        return folder
    except (ValueError, TypeError, OverflowError, KeyError):
        _refuse()


def _path(value: Any) -> str:
    path = text(value)
    parts = path.split("/")
    if parts[0] or "\0" in path or len(path) > MAX_PATH + _MAX_NAME:
        _refuse()
    if path != "/" and any(part in ("", ".", "..") for part in parts[1:]):
        _refuse()
    return path


def from_areas(areas: Iterable[Extent], most: int) -> list[list[int]]:
    """Return at most *most* areas for JSON; those that are close to each other become one."""
    parts = [[area.start, area.end] for area in coalesce(areas)]
    gap = 1 << 16
    while len(parts) > most:
        merged = parts[:1]
        for part in parts[1:]:
            if part[0] - merged[-1][1] <= gap:
                merged[-1][1] = part[1]
            else:
                merged.append(part)
        parts, gap = merged, gap * 4
    return parts
