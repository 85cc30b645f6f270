"""The frames that a child process and its parent exchange over a socket.

A frame is a header and a payload: JSON for words, plain bytes for data. What the other side sends
is checked here before anything is done with it: the child runs a library of somebody else's, which
may have written anywhere.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_HEADER: Final = struct.Struct("<4sBxxxIQ")
_MAGIC: Final = b"VDK1"
CALL, READ, ANSWER, DATA, ERROR = 1, 2, 3, 4, 5
MAX_WORDS: Final = 1 << 16
"""Bytes of JSON in a frame."""
MAX_DATA: Final = 16 << 20
"""More than the largest read, and the list of all extents that one question can have."""
RANGE: Final = struct.Struct("<QQ")
"""First sector and number of sectors."""


class FrameError(Exception):
    """The other side is gone, or sends what is no frame."""


class StreamEnded(FrameError):
    """The other side closed the stream, in the middle of a frame or with bytes it did not read."""


class VddkFrame(NamedTuple):
    kind: int
    tag: int
    payload: memoryview

    def words(self) -> dict[str, Any]:
        """The payload as a JSON object; FrameError if it is none."""
        try:
            found = json.loads(bytes(self.payload))
        except (ValueError, RecursionError) as exc:
            raise FrameError("a frame that is not JSON") from exc
        if not isinstance(found, dict):
            raise FrameError("a frame that is no JSON object")
        return found


def header(kind: int, tag: int, length: int) -> bytes:
    """What stands before a payload of *length* bytes."""
    return _HEADER.pack(_MAGIC, kind, tag, length)


def send_frame(stream: socket.socket, kind: int, tag: int, *payload: bytes | memoryview) -> None:
    """One frame; FrameError if the other side is gone. Not safe for several threads."""
    length = sum(len(each) for each in payload)
    parts = [memoryview(header(kind, tag, length))]
    parts += [memoryview(each) for each in payload]
    try:
        while parts:
            sent = stream.sendmsg(parts, (), socket.MSG_NOSIGNAL)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts and sent:
                parts[0] = parts[0][sent:]
    except OSError as exc:
        raise StreamEnded(f"the other side is gone: {exc.strerror}") from exc


def send_words(stream: socket.socket, kind: int, tag: int, words: Mapping[str, Any]) -> None:
    send_frame(stream, kind, tag, json.dumps(words).encode())


def receive_frame(stream: socket.socket) -> VddkFrame | None:
    """The next frame; None at the end of the stream; FrameError."""
    head = _receive(stream, _HEADER.size, may_end=True)
    if head is None:
        return None
    magic, kind, tag, length = _HEADER.unpack(head)
    limit = MAX_DATA if kind in (DATA, ANSWER) else MAX_WORDS
    if magic != _MAGIC or kind not in (CALL, READ, ANSWER, DATA, ERROR) or length > limit:
        raise FrameError("what is no frame")
    payload = _receive(stream, length, may_end=False)
    assert payload is not None
    return VddkFrame(kind, tag, payload)


def _receive(stream: socket.socket, length: int, *, may_end: bool) -> memoryview | None:
    data = memoryview(bytearray(length))
    at = 0
    try:
        while at < length:
            count = stream.recv_into(data[at:])
            if not count:
                if may_end and not at:
                    return None
                raise StreamEnded("half a frame")
            at += count
    except OSError as exc:
        raise StreamEnded(f"the other side is gone: {exc.strerror}") from exc
    return data
