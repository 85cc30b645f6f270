"""The frames that a child process and its parent exchange over a socket.

A frame is a header and a payload: JSON for calls and answers, plain bytes for data. Each received
frame is validated before use, because a bug in VMware's library can corrupt the child's memory.
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
"""Maximum size of a JSON payload in bytes."""
MAX_DATA: Final = 16 << 20
"""Maximum size of a data payload: above the largest read and the longest list of extents."""
RANGE: Final = struct.Struct("<QQ")
"""First sector and number of sectors."""


class FrameError(Exception):
    """Raised when the peer has closed the stream or sends an invalid frame."""


class StreamEnded(FrameError):
    """Raised when the peer closed the stream within a frame or with unread bytes."""


class VddkFrame(NamedTuple):
    kind: int
    tag: int
    payload: memoryview

    def words(self) -> dict[str, Any]:
        """Return the payload as a JSON object; raise FrameError if it is anything else."""
        try:
            document = json.loads(bytes(self.payload))
        except (ValueError, RecursionError) as exc:
            raise FrameError("a frame that is not JSON") from exc
        if not isinstance(document, dict):
            raise FrameError("a frame that is not a JSON object")
        return document


def header(kind: int, tag: int, length: int) -> bytes:
    """Return the header of a frame with a payload of *length* bytes."""
    return _HEADER.pack(_MAGIC, kind, tag, length)


def send_frame(stream: socket.socket, kind: int, tag: int, *payload: bytes | memoryview) -> None:
    """Send one frame; raise FrameError if the peer is gone. Not safe for several threads."""
    length = sum(len(piece) for piece in payload)
    parts = [memoryview(header(kind, tag, length))]
    parts += [memoryview(piece) for piece in payload]
    try:
        while parts:
            sent = stream.sendmsg(parts, (), socket.MSG_NOSIGNAL)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts and sent:
                parts[0] = parts[0][sent:]
    except OSError as exc:
        raise StreamEnded(f"the peer is gone: {exc.strerror}") from exc


def send_words(stream: socket.socket, kind: int, tag: int, words: Mapping[str, Any]) -> None:
    send_frame(stream, kind, tag, json.dumps(words).encode())


def receive_frame(stream: socket.socket) -> VddkFrame | None:
    """Return the next frame, None at the end of the stream; raise FrameError."""
    head = _receive(stream, _HEADER.size, may_end=True)
    if head is None:
        return None
    magic, kind, tag, length = _HEADER.unpack(head)
    limit = MAX_DATA if kind in (DATA, ANSWER) else MAX_WORDS
    if magic != _MAGIC or kind not in (CALL, READ, ANSWER, DATA, ERROR) or length > limit:
        raise FrameError("an invalid frame header")
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
                raise StreamEnded("a truncated frame")
            at += count
    except OSError as exc:
        raise StreamEnded(f"the peer is gone: {exc.strerror}") from exc
    return data
