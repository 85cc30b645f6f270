"""The client's side of AIO: requests out, events in, no system calls.

The codec knows the operations in flight and accepts only replies that they can have. Everything
else raises NfcProtocolError. After that the codec accepts no more bytes; it never resynchronises.
"""

from dataclasses import dataclass
from typing import Final

from cbtfs.source.transport.nfc import wire
from cbtfs.source.transport.nfc.classic import shown
from cbtfs.source.transport.nfc.fragments import Assembly
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
    size: int
    """Size of the payload of the reply."""
    read: Assembly | None = None
    start: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class _Record:
    """A record whose header and payload have arrived."""

    kind: Aio
    operation: int
    payload: bytes
    extra: int
    """Number of bytes that follow the payload."""


class AioCodec:
    """One AIO session."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._next = 0
        self._pending: dict[int, _Pending] = {}
        self._record: _Record | None = None
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
        self._pending[number] = _Pending(kind, wire.REPLY_BYTES[kind])
        return number, wire.HEADER.pack(wire.MAGIC, kind, len(payload), number) + payload + extra

    # replies

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """Add received *data*; return the events that it completes."""
        if self.is_ended:
            raise NfcProtocolError("the NFC session has ended")
        self._data += data
        events: list[Event] = []
        try:
            while not self.is_ended:
                if self._record is None:
                    self._record = self._head()
                record = self._record
                if record is None or len(self._data) < record.extra:
                    break
                self._record = None
                with memoryview(self._data) as view:
                    event = self._event(record, view[: record.extra])
                del self._data[: record.extra]
                if event is not None:
                    events.append(event)
        except NfcProtocolError:
            self.is_ended = True
            raise
        return events

    def _head(self) -> _Record | None:
        """Take header and payload of the next record; None if they are incomplete."""
        if len(self._data) < wire.HEADER.size:
            return None
        magic, kind, size, number = wire.HEADER.unpack_from(self._data)
        if magic != wire.MAGIC:
            raise NfcProtocolError(f"the host sends {magic:#010x} where a record should start")
        pending = self._pending.get(number)
        if pending is None:
            raise NfcProtocolError(f"the host sends a record of operation {number}, not in flight")
        if kind not in (Aio.ERROR, pending.kind):
            raise NfcProtocolError(f"the host answers {pending.kind.name} with record type {kind}")
        kind = Aio(kind)
        if size != wire.REPLY_BYTES[kind]:
            raise NfcProtocolError(f"the reply to {pending.kind.name} has {size} bytes")
        end = wire.HEADER.size + size
        if len(self._data) < end:
            return None
        payload = bytes(self._data[wire.HEADER.size : end])
        del self._data[:end]
        return _Record(kind, number, payload, self._extra(kind, payload, pending))

    def _extra(self, kind: Aio, payload: bytes, pending: _Pending) -> int:
        """Return how many bytes follow the payload; check them against the request."""
        length = 0
        if kind == Aio.ERROR:
            length = wire.ERROR_PAYLOAD.unpack(payload)[2]
            if length > wire.MAX_TEXT:
                raise NfcProtocolError(f"the host sends an error text of {length} bytes")
        elif kind == Aio.IO:
            length = _fragment_bytes(payload, pending.read)
        elif kind == Aio.QUERY_ALLOCATED:
            count = wire.ALLOCATED.unpack(payload)[4]
            if count != pending.chunks:
                raise NfcProtocolError(
                    f"the host answers for {count} chunks instead of {pending.chunks}"
                )
            length = -(-count // 32) * 4
        elif kind == Aio.DDB_GET:
            length = int.from_bytes(payload[12:16], "little")
            if length > wire.MAX_VALUE:
                raise NfcProtocolError(f"the host sends a value of {length} bytes")
        return length

    def _event(self, record: _Record, extra: memoryview) -> Event | None:
        number, kind = record.operation, record.kind
        with extra:
            if kind == Aio.ERROR:
                self.is_ended = True
                code = wire.ERROR_PAYLOAD.unpack(record.payload)[0]
                return Refused(number, code, shown(bytes(extra)))
            if kind == Aio.IO:
                return self._fragment(record, extra)
            text = bytes(extra)
        del self._pending[number]
        if kind == Aio.OPEN_FILE:
            return self._opened(record)
        if kind == Aio.QUERY_ALLOCATED:
            return AllocatedChunks(number, text)
        if kind == Aio.DDB_GET:
            return DdbValue(number, _value(text) if text else None)
        return Acknowledged(number, kind)

    def _fragment(self, record: _Record, extra: memoryview) -> Event | None:
        number = record.operation
        status, _, code, _, _, start, length, _, _ = wire.READ_REPLY.unpack(record.payload)
        if status:
            self.is_ended = True
            return Refused(number, status, "'no text'")
        assembly = self._pending[number].read
        assert assembly is not None
        assembly.fill(code, start, length, extra)
        if not assembly.is_complete:
            return None
        del self._pending[number]
        return ReadDone(number)

    def _opened(self, record: _Record) -> FileOpened | Refused:
        status, handle, _, _, capacity, sector = wire.OPEN_REPLY.unpack(record.payload)
        if status:
            self.is_ended = True
            return Refused(record.operation, status, "'no text'")
        if sector not in (0, wire.SECTOR):
            raise NfcProtocolError(f"the disk has sectors of {sector} bytes")
        if not 0 < capacity <= _MAX_CAPACITY or capacity % wire.SECTOR:
            raise NfcProtocolError(f"the host reports a capacity of {capacity} bytes")
        return FileOpened(record.operation, handle, capacity)


def _fragment_bytes(payload: bytes, assembly: Assembly | None) -> int:
    """Return how many bytes of a fragment follow; raise NfcProtocolError if it is invalid."""
    assert assembly is not None
    fields = wire.READ_REPLY.unpack(payload)
    status, _, code, offset, total, start, length, packed, _ = fields
    if status:
        return 0
    if (offset, total) != (assembly.offset, assembly.length):
        raise NfcProtocolError(
            f"a fragment belongs to a read of {total} bytes at {offset}, not of "
            f"{assembly.length} bytes at {assembly.offset}"
        )
    assembly.check(code, start, length, packed)
    return int(packed)


def _value(text: bytes) -> str:
    try:
        return text.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise NfcProtocolError("the host sends a value that is not UTF-8 text") from None
