"""Encode the host's side of NFC, for property tests of the client's codec."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

MAGIC = b"\x7a\xda\x00\xa1"


def record(kind: int, operation: int, payload: bytes, extra: bytes = b"") -> bytes:
    """Return one record; *extra* follows the payload and is not counted."""
    return MAGIC + struct.pack("<III", kind, len(payload), operation) + payload + extra


def error(operation: int, code: int, text: bytes) -> bytes:
    return record(1, operation, struct.pack("<QII", code, 0, len(text)), text)


@dataclass(frozen=True)
class Fragment:
    """One fragment of a read, with every field of its payload."""

    operation: int
    offset: int
    total: int
    start: int
    length: int
    code: int
    data: bytes
    status: int = 0
    packed: int | None = None
    """The number of bytes that the payload announces; None: that of data."""

    def encode(self) -> bytes:
        payload = struct.pack("<Q", self.status) + struct.pack("<II", 1, self.code)
        payload += struct.pack("<Q", self.offset)
        payload += struct.pack("<IIII", self.total, self.start, self.length, self.announced)
        return record(7, self.operation, payload + bytes(4), self.data)

    @property
    def announced(self) -> int:
        return len(self.data) if self.packed is None else self.packed

    def changed(self, **fields: int | bytes) -> "Fragment":
        return replace(self, **fields)  # type: ignore[arg-type]


def packed(content: bytes, code: int) -> bytes:
    """Return *content* in the encoding with that code."""
    if code == 0:
        return content
    if code == 1:
        return zlib.compress(content, 1)
    return struct.pack("<II", len(content), 0) + b"".join(_runs(content))


def _runs(content: bytes) -> Iterator[bytes]:
    """Yield the sectors that are not all zeros as runs."""
    for at in range(0, len(content), 512):
        sector = content[at : at + 512]
        if any(sector):
            yield struct.pack("<II", at, len(sector)) + sector


def fragment(
    operation: int, offset: int, content: bytes, start: int, end: int, code: int
) -> Fragment:
    """Return the fragment of a read that holds *content* from *start* to *end*.

    Data that does not shrink is sent plain, as ESXi does.
    """
    part = content[start:end]
    data = packed(part, code)
    if len(data) >= len(part):
        code, data = 0, part
    return Fragment(operation, offset, len(content), start, end - start, code, data)


def classic(kind: int, *numbers: int, extra: bytes = b"") -> bytes:
    """Return one message of 264 bytes, and what follows it."""
    return struct.pack(f"<{1 + len(numbers)}I", kind, *numbers).ljust(264, b"\0") + extra


def opened(operation: int, capacity: int, *, handle: int = 1 << 63, sector: int = 512) -> bytes:
    payload = struct.pack("<QQIIIQI", 0, handle, 2, 0x1E, 0, capacity, sector)
    return record(4, operation, payload.ljust(60, b"\0"))


def allocated(operation: int, count: int, bitmap: bytes) -> bytes:
    payload = struct.pack("<QQQQQQ", 0, 0, 0, 0, count, 0)
    return record(13, operation, payload, bitmap)


def ddb(operation: int, value: bytes) -> bytes:
    return record(11, operation, bytes(12) + struct.pack("<I", len(value)), value)
