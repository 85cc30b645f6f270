"""The client's side of AIO: requests out, events in, no system calls.

The codec knows the operations in flight and accepts only replies that they can have. Everything
else raises NfcProtocolError. After that the codec accepts no more bytes; it never resynchronises.
"""

from dataclasses import dataclass
from typing import Final

from cbtfs.source.transport.nfc import wire
from cbtfs.source.transport.nfc.classic import shown
from cbtfs.source.transport.nfc.fragments import Assembly, Fragment
from cbtfs.source.transport.nfc.wire import Aio, Compression, NfcProtocolError

_DISK: Final = 2
_READ_ONLY: Final = 0x1E
"""Open read-only, with parents."""
_READ: Final = 1
_MAX_CAPACITY: Final = 64 << 40
_OPERATIONS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The host carried out an operation without a result."""

    operation: int
    kind: Aio


@dataclass(frozen=True, slots=True)
class FileOpened:
    """The host opened the disk."""

    operation: int
    handle: int
    capacity: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class ReadDone:
    """The buffer of a read is complete."""

    operation: int


@dataclass(frozen=True, slots=True)
class AllocatedChunks:
    """The bitmap of allocated chunks: one bit per chunk, the lowest bit first."""

    operation: int
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class DdbValue:
    """A value of the disk's database; None if it has no such key."""

    operation: int
    value: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The host refused an operation. The codec accepts no more bytes, because it is unknown whether
    the host also sends the normal reply."""

    operation: int
    code: int
    text: str


Event = Acknowledged | FileOpened | ReadDone | AllocatedChunks | DdbValue | Refused


@dataclass(slots=True)
class _Pending:
    """An operation in flight."""

    kind: Aio
    read: Assembly | None = None
    start: int = 0
    chunks: int = 0


@dataclass(slots=True)
class _Reply:
    """A record whose header has arrived."""

    kind: Aio
    operation: int
    pending: _Pending
    payload: memoryview
    fragment: Fragment | None = None
    """The part of a read that follows the payload."""
    extra: memoryview | None = None
    """Memory for the bytes that follow the payload; None until the payload has arrived."""


class AioCodec:
    """One AIO session."""

    def __init__(self) -> None:
        self._next = 0
        self._pending: dict[int, _Pending] = {}
        head = memoryview(bytearray(wire.HEADER.size + max(wire.REPLY_BYTES.values())))
        self._header, self._payload = head[: wire.HEADER.size], head[wire.HEADER.size :]
        self._scratch = memoryview(bytearray(wire.MAX_TEXT))
        """Memory for extras other than plain data of a disk."""
        self._reply: _Reply | None = None
        self._space = self._header
        """The part of header, payload or extra that has not arrived."""
        self.is_ended = False

    # requests: each returns the number of the operation and the bytes of one write

    def open_session(self) -> tuple[int, bytes]:
        """Ask for a session with the default buffers, 64 KiB per fragment."""
        return self._request(Aio.OPEN_SESSION, bytes(16))

    def set_socket_options(self) -> tuple[int, bytes]:
        return self._request(Aio.SET_SOCK_OPTS, bytes(12))

    def set_resource_pool(self) -> tuple[int, bytes]:
        return self._request(Aio.SET_RES_POOL, (1).to_bytes(4, "little"))

    def open_file(self, path: str) -> tuple[int, bytes]:
        """Open the disk at a datastore path, read-only."""
        name = path.encode()
        payload = wire.OPEN_REQUEST.pack(len(name), _DISK, _READ_ONLY)
        return self._request(Aio.OPEN_FILE, payload, name)

    def read(
        self, handle: int, offset: int, into: memoryview, compression: Compression
    ) -> tuple[int, bytes]:
        """Read len(into) bytes at *offset*; ReadDone follows when *into* is filled."""
        length = len(into)
        if not 0 < length <= wire.MAX_READ or offset % wire.SECTOR or length % wire.SECTOR:
            raise ValueError(f"invalid read of {length} bytes at {offset}")
        payload = wire.READ_REQUEST.pack(
            handle, _READ, compression, offset, length, length, length, 0
        )
        number, data = self._request(Aio.IO, payload)
        self._pending[number].read = Assembly(offset, length, compression, into)
        return number, data

    def query_allocated(self, handle: int, first: int, count: int) -> tuple[int, bytes]:
        """Ask which of *count* chunks of 64 KiB, from chunk *first* on, are allocated."""
        if not 0 < count <= wire.MAX_CHUNKS:
            raise ValueError(f"invalid query of {count} chunks")
        start = first * wire.CHUNK
        payload = wire.ALLOCATED.pack(handle, 0, wire.CHUNK, start, count, 0)
        number, data = self._request(Aio.QUERY_ALLOCATED, payload)
        self._pending[number].start, self._pending[number].chunks = start, count
        return number, data

    def get_ddb(self, handle: int, key: str) -> tuple[int, bytes]:
        """Ask for a value of the disk's database; *key* has no `ddb.`."""
        name = key.encode("ascii")
        return self._request(Aio.DDB_GET, wire.DDB_REQUEST.pack(handle, len(name), 0), name)

    def close_file(self, handle: int) -> tuple[int, bytes]:
        return self._request(Aio.CLOSE_FILE, handle.to_bytes(8, "little"))

    def close_session(self) -> tuple[int, bytes]:
        return self._request(Aio.CLOSE_SESSION, bytes(4))

    def _request(self, kind: Aio, payload: bytes, extra: bytes = b"") -> tuple[int, bytes]:
        number = self._next
        if number in self._pending:
            raise ValueError(f"operation {number} is still in flight")
        self._next = (number + 1) % _OPERATIONS
        self._pending[number] = _Pending(kind)
        return number, wire.HEADER.pack(wire.MAGIC, kind, len(payload), number) + payload + extra

    # replies

    def space(self) -> memoryview:
        """Return the memory for the next bytes of the host; call received() after filling a part.

        The memory for plain data of a disk is the buffer of the read.
        """
        return self._space

    def received(self, count: int) -> Event | None:
        """Count bytes that were written to the start of space(); return the event they complete."""
        if self.is_ended:
            raise NfcProtocolError("the NFC session has ended")
        self._space = self._space[count:]
        if self._space:
            return None
        try:
            return self._advance()
        except NfcProtocolError:
            self.is_ended = True
            raise

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """Copy received *data* to space(); return the events that it completes."""
        if self.is_ended:
            raise NfcProtocolError("the NFC session has ended")
        events: list[Event] = []
        left = memoryview(data)
        while left and not self.is_ended:
            count = min(len(left), len(self._space))
            self._space[:count] = left[:count]
            left = left[count:]
            event = self.received(count)
            if event is not None:
                events.append(event)
        return events

    def _advance(self) -> Event | None:
        """Decode the part that has arrived; return the event if it is the last one of a record."""
        reply = self._reply
        if reply is None:
            self._reply = reply = self._decode_header()
            self._space = reply.payload
            return None
        if reply.extra is None:
            self._space = reply.extra = self._extra(reply)
            if reply.extra:
                return None
        self._reply, self._space = None, self._header
        return self._event(reply, reply.extra)

    def _decode_header(self) -> _Reply:
        magic, kind, size, number = wire.HEADER.unpack(self._header)
        if magic != wire.MAGIC:
            raise NfcProtocolError(f"the host sends {magic:#010x} where a record should start")
        pending = self._pending.get(number)
        if pending is None:
            raise NfcProtocolError(f"the host sends a record of operation {number}, not in flight")
        if kind not in (pending.kind, Aio.ERROR):
            raise NfcProtocolError(f"the host answers {pending.kind.name} with record type {kind}")
        kind = pending.kind if kind == pending.kind else Aio.ERROR
        if size != wire.REPLY_BYTES[kind]:
            raise NfcProtocolError(f"the reply to {pending.kind.name} has {size} bytes")
        return _Reply(kind, number, pending, self._payload[:size])

    def _extra(self, reply: _Reply) -> memoryview:
        """Return memory for the bytes after the payload; check the payload against the request."""
        kind, payload = reply.kind, reply.payload
        length = 0
        if kind == Aio.IO:
            assembly = reply.pending.read
            assert assembly is not None
            fragment = reply.fragment = _fragment(payload, assembly)
            if fragment is not None:
                memory = assembly.memory(fragment)
                if memory is not None:
                    return memory
                length = fragment.packed
        elif kind == Aio.ERROR:
            length = wire.ERROR_PAYLOAD.unpack(payload)[2]
            if length > wire.MAX_TEXT:
                raise NfcProtocolError(f"the host sends an error text of {length} bytes")
        elif kind == Aio.QUERY_ALLOCATED:
            count, asked = wire.ALLOCATED.unpack(payload)[4], reply.pending.chunks
            if count != asked:
                raise NfcProtocolError(f"the host answers for {count} chunks instead of {asked}")
            length = -(-count // 32) * 4
        elif kind == Aio.DDB_GET:
            length = int.from_bytes(payload[12:16], "little")
            if length > wire.MAX_VALUE:
                raise NfcProtocolError(f"the host sends a value of {length} bytes")
        if length > len(self._scratch):
            self._scratch = memoryview(bytearray(length))
        return self._scratch[:length]

    def _event(self, reply: _Reply, extra: memoryview) -> Event | None:
        number, kind, payload = reply.operation, reply.kind, reply.payload
        if kind == Aio.IO:
            return self._data(reply, extra)
        text = bytes(extra)
        if kind == Aio.ERROR:
            self.is_ended = True
            return Refused(number, wire.ERROR_PAYLOAD.unpack(payload)[0], shown(text))
        del self._pending[number]
        if kind == Aio.OPEN_FILE:
            return self._opened(number, payload)
        if kind == Aio.QUERY_ALLOCATED:
            return AllocatedChunks(number, text)
        if kind == Aio.DDB_GET:
            return DdbValue(number, _value(text) if text else None)
        return Acknowledged(number, kind)

    def _data(self, reply: _Reply, extra: memoryview) -> Event | None:
        assembly = reply.pending.read
        assert assembly is not None
        if reply.fragment is None:
            self.is_ended = True
            return Refused(reply.operation, _status(reply.payload), "'no text'")
        assembly.fill(reply.fragment, extra)
        if not assembly.is_complete:
            return None
        del self._pending[reply.operation]
        return ReadDone(reply.operation)

    def _opened(self, number: int, payload: memoryview) -> FileOpened | Refused:
        status, handle, _, _, capacity, sector = wire.OPEN_REPLY.unpack(payload)
        if status:
            self.is_ended = True
            return Refused(number, status, "'no text'")
        if sector not in (0, wire.SECTOR):
            raise NfcProtocolError(f"the disk has sectors of {sector} bytes")
        if not 0 < capacity <= _MAX_CAPACITY or capacity % wire.SECTOR:
            raise NfcProtocolError(f"the host reports a capacity of {capacity} bytes")
        return FileOpened(number, handle, capacity)


def _status(payload: memoryview) -> int:
    return int.from_bytes(payload[:8], "little")


def _fragment(payload: memoryview, assembly: Assembly) -> Fragment | None:
    """Return the part of a read that follows; None if the read failed.

    NfcProtocolError if that part is invalid.
    """
    fields = wire.READ_REPLY.unpack(payload)
    status, _, code, offset, total, start, length, packed, _ = fields
    if status:
        return None
    if offset != assembly.offset or total != assembly.length:
        raise NfcProtocolError(
            f"a fragment belongs to a read of {total} bytes at {offset}, not of "
            f"{assembly.length} bytes at {assembly.offset}"
        )
    fragment = Fragment(code, start, length, packed)
    assembly.check(fragment)
    return fragment


def _value(text: bytes) -> str:
    try:
        return text.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise NfcProtocolError("the host sends a value that is not UTF-8 text") from None
