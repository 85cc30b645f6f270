"""An AIO session: disks are opened, read and closed by records."""

import os
import random
from collections.abc import Iterator
from typing import Final, Protocol

from tools.vsim.api.nfc import NfcTickets, Ticket
from tools.vsim.knobs import NfcKnobs
from tools.vsim.model.image import read_padded
from tools.vsim.model.world import World
from tools.vsim.nfc import wire
from tools.vsim.nfc.channel import Channel, Ended
from tools.vsim.nfc.codes import encoded
from tools.vsim.nfc.disks import OpenDisk, Refused, open_disk
from tools.vsim.nfc.faults import Faults
from tools.vsim.nfc.fragments import Read, spoil
from tools.vsim.nfc.wire import FRAGMENT_BODY, FRAGMENT_HEAD, HEADER, Record

DEFAULT_BUFFER: Final = 65536
DEFAULT_COUNT: Final = 4
LARGEST_BUFFER: Final = 2 << 20
MOST_BYTES: Final = 32 << 20
"""Bytes of one read."""
MOST_REQUESTS: Final = 64
"""Reads that one connection has in work; further ones wait in the socket."""
MOST_CHUNKS: Final = 524288
TEXT: Final = 65536
DISK: Final = 2
FIRST_HANDLE: Final = 0xFFFFFFFF80000000
HEAD: Final = FRAGMENT_HEAD.size


class Host(Protocol):
    """The limits of the host, shared by its connections."""

    def enter(self) -> bool:
        """Count a session; return whether it is within the limit."""

    def leave(self) -> None:
        """Stop counting a session."""

    def reserve(self, amount: int) -> bool:
        """Reserve bytes of buffers; return whether the budget allows them."""

    def release(self, amount: int) -> None:
        """Return reserved bytes."""

    def is_serving(self, ticket: Ticket) -> bool:
        """Return whether the host, and the session if it matters, still serve a ticket."""


class AioSession:
    """The server's side of one session."""

    def __init__(
        self, world: World, channel: Channel, faults: Faults, ticket: Ticket, host: Host
    ) -> None:
        self._world = world
        self._channel = channel
        self._faults = faults
        self._ticket = ticket
        self._host = host
        self._disks: dict[int, OpenDisk] = {}
        self._handle = FIRST_HANDLE
        self._buffer = DEFAULT_BUFFER
        self._reserved = 0
        self._is_counted = False
        self._random = random.Random(world.knobs.nfc.seed)
        self._block = memoryview(bytearray())
        self._counts: NfcTickets

    @property
    def _knobs(self) -> NfcKnobs:
        return self._world.knobs.nfc

    def run(self, counts: NfcTickets) -> None:
        """Answer records until the session ends; raises Ended or OSError."""
        self._counts = counts
        try:
            pending: Record | None = None
            while True:
                request = pending or self._receive()
                pending = None
                if not self._host.is_serving(self._ticket):
                    raise Ended("the host or the session of the ticket is away")
                if request.kind == wire.IO:
                    pending = self._read_batch(request)
                elif self._answer(request):
                    return
        finally:
            self._end()

    def _end(self) -> None:
        for disk in self._disks.values():
            disk.close()
            self._counts.note_open(-1)
        self._disks.clear()
        self._host.release(self._reserved)
        if self._is_counted:
            self._host.leave()

    # records

    def _receive(self) -> Record:
        head = self._channel.take(HEADER.size)
        magic, kind, size, op_id = HEADER.unpack(head)
        if magic == wire.SESSION_COMPLETE:
            raise Ended("the client completed the session")
        if magic != wire.MAGIC or size not in wire.SIZES.get(kind, ()):
            raise Ended(f"invalid record: magic {magic:#x}, type {kind}, size {size}")
        return Record(kind, op_id, self._channel.take(size))

    def _extra(self, length: int) -> bytes:
        if length > TEXT:
            raise Ended("a text is too long")
        return self._channel.take(length)

    def _reply(self, point: str, request: Record, payload: bytes, extra: bytes = b"") -> None:
        rule = self._faults.find(point)
        if rule is not None and rule.action == "bitmap-short":
            extra = extra[:-4]
        elif rule is not None and rule.action == "bitmap-long":
            extra += bytes(4)
        elif rule is not None and rule.action == "count":
            payload = wire.BITMAP_BODY.pack(wire.BITMAP_BODY.unpack(payload)[0] + 1)
        self._faults.record(rule, request.kind, request.op_id, payload, extra)

    def _refuse(self, request: Record, code: int, text: str) -> None:
        """Send ERROR, then the usual reply with zeros."""
        size = 44 if request.kind == wire.IO else len(request.payload)
        self._channel.send(wire.error_record(request.op_id, code, text))
        self._channel.send(wire.record(request.kind, request.op_id, bytes(size)))

    def _answer(self, request: Record) -> bool:
        """Answer a record other than IO; return whether the session is over."""
        match request.kind:
            case wire.OPEN_SESSION:
                self._open_session(request)
            case wire.SOCK_OPTS:
                payload = b"".join(n.to_bytes(4, "little") for n in (1 << 20, 1 << 20, 1))
                self._reply("sock-opts", request, payload)
            case wire.RES_POOL:
                self._reply("res-pool", request, request.payload)
            case wire.OPEN_FILE:
                self._open_file(request)
            case wire.ALLOCATED:
                self._allocated(request)
            case wire.DDB_GET:
                self._value(request)
            case wire.CLOSE_FILE:
                (handle,) = wire.HANDLE.unpack(request.payload[:8])
                disk = self._disks.pop(handle, None)
                if disk is not None:
                    disk.close()
                    self._counts.note_open(-1)
                self._reply("close", request, request.payload)
            case wire.CLOSE_SESSION:
                self._reply("close-session", request, request.payload)
        return False

    def _open_session(self, request: Record) -> None:
        _, size, count, _ = wire.SESSION_BODY.unpack(request.payload)
        size, count = size or DEFAULT_BUFFER, count or DEFAULT_COUNT
        self._buffer = self._knobs.buffer or size // 512 * 512
        if not 512 <= size <= LARGEST_BUFFER or count > MOST_REQUESTS:
            self._refuse(request, wire.NO_BUFFER, f"Failed to allocate the requested {size} bytes")
            return
        if not self._is_counted and not self._host.enter():
            self._refuse(request, wire.NO_BUFFER, "Too many NFC sessions")
            raise Ended("too many sessions")
        self._is_counted = True
        if not self._host.reserve(size * count):
            self._counts.count("over_budget")
            self._refuse(request, wire.NO_BUFFER, f"Failed to allocate the requested {size} bytes")
            return
        self._reserved += size * count
        self._counts.count("sessions")
        self._reply("open-session", request, bytes(16))

    # disks

    def _open_file(self, request: Record) -> None:
        length, kind, flags = wire.OPEN_BODY.unpack(request.payload)
        path = self._extra(length).decode("utf-8", "replace")
        try:
            if kind != DISK:
                raise Refused(wire.UNSUPPORTED, "unsupported file type")
            disk = open_disk(self._world, self._ticket, path, flags)
        except Refused as refusal:
            self._counts.count("refused_opens")
            if refusal.code == wire.MULTIWRITER and self._knobs.refusal == "classic":
                self._channel.send(wire.classic_error(refusal.code, refusal.text))
                raise Ended(refusal.text) from refusal
            self._refuse(request, refusal.code, refusal.text)
            return
        self._handle += 1
        self._disks[self._handle] = disk
        self._faults.names = [disk.name, disk.machine.moid]
        self._counts.note_open(1)
        cylinders = min(disk.size // 512 // (255 * 63), 65535)
        payload = wire.OPENED_BODY.pack(
            0, self._handle, kind, flags, disk.size + self._knobs.size_delta,
            self._knobs.sector, cylinders, 255, 63,
        )  # fmt: skip
        self._reply("open", request, payload)

    def _disk(self, request: Record) -> OpenDisk | None:
        (handle,) = wire.HANDLE.unpack(request.payload[:8])
        disk = self._disks.get(handle)
        if disk is None:
            self._refuse(request, wire.INVALID, "invalid handle")
        return disk

    def _allocated(self, request: Record) -> None:
        _, _, chunk, start, count, _ = wire.ALLOCATED_BODY.unpack(request.payload)
        disk = self._disk(request)
        if disk is None:
            return
        self._counts.count("allocated")
        if self._knobs.allocation == "unsupported":
            self._refuse(request, wire.UNSUPPORTED, "not supported by the datastore")
        elif (
            chunk < 512
            or chunk % 512
            or start % chunk
            or not 0 < count <= MOST_CHUNKS
            or start + chunk * count > disk.size
        ):
            self._refuse(request, wire.INVALID, "invalid range of chunks")
        else:
            bits = disk.bitmap(chunk, start, count, self._knobs)
            self._reply("allocated", request, wire.BITMAP_BODY.pack(count), bytes(bits))

    def _value(self, request: Record) -> None:
        _, length, _ = wire.DDB_BODY.unpack(request.payload)
        key = self._extra(length).decode("utf-8", "replace")
        disk = self._disk(request)
        if disk is not None:
            self._counts.count("ddb")
            value = disk.value(key).encode()
            self._reply("ddb", request, wire.VALUE_BODY.pack(len(value)), value)

    # reads

    def _read_batch(self, first: Record) -> Record | None:
        """Answer *first* and the reads that follow it at once; return the record after them."""
        reads: list[tuple[OpenDisk, Read]] = []
        following: Record | None = first
        reserved = 0
        while following is not None and following.kind == wire.IO:
            accepted = self._accept(following)
            if accepted is not None:
                reads.append(accepted)
                reserved += accepted[1].length
            is_full = len(reads) == MOST_REQUESTS
            following = self._receive() if not is_full and self._channel.has_more() else None
        self._counts.note_largest("requests", len(reads))
        self._counts.note_largest("bytes", reserved)
        try:
            self._serve(reads)
        finally:
            self._host.release(reserved)
        return following

    def _accept(self, request: Record) -> tuple[OpenDisk, Read] | None:
        _, direction, code, offset, length, _, extra, _ = wire.READ_BODY.unpack(request.payload)
        if direction == 0:
            for taken in range(0, extra, TEXT):
                self._channel.take(min(TEXT, extra - taken))
        disk = self._disk(request)
        if disk is None:
            return None
        if direction != 1:
            self._refuse(request, wire.NOT_ALLOWED, "the disk is open read-only")
        elif offset % 512 or length % 512 or not length or offset + length > disk.size:
            self._refuse(request, wire.INVALID, "the range is outside the disk or unaligned")
        elif length > MOST_BYTES or not self._host.reserve(length):
            self._counts.count("over_budget")
            text = f"Failed to allocate the requested {length} bytes"
            self._refuse(request, wire.NO_BUFFER, text)
        else:
            return disk, Read(request.op_id, code, offset, length)
        return None

    def _serve(self, reads: list[tuple[OpenDisk, Read]]) -> None:
        sound: list[tuple[OpenDisk, Read]] = []
        for disk, read in reads:
            self._counts.count("reads")
            self._counts.count("read_bytes", read.length)
            if self._ruled(disk, read):
                sound.append((disk, read))
        pieces = [
            (image, read, at)
            for disk, read in sound
            for image in (disk.image(),)
            for at in range(0, read.length, self._buffer)
        ]
        if self._knobs.shuffle:
            self._random.shuffle(pieces)
        if len(self._block) < HEAD + self._buffer:
            self._block = memoryview(bytearray(HEAD + self._buffer))
        offered = self._knobs.codes.split(":")
        sent = 0
        for image, read, at in pieces:
            sent += self._send_fragment(image, read, at, offered)
        self._counts.count("fragments", len(pieces))
        self._counts.count("sent_bytes", sent)

    def _ruled(self, disk: OpenDisk, read: Read) -> bool:
        """Apply rules to a read; return whether it is still to be answered."""
        end = read.offset + read.length
        general = self._world.on_read(read.offset, end, disk.export)
        rule = self._faults.find("read")
        action = general.action if general is not None else ""
        if action == "eio":
            self._channel.send(wire.record(wire.IO, read.op_id, FRAGMENT_BODY.pack(1, *[0] * 8)))
            return False
        cut = action in ("close", "short")
        if not cut and (rule is None or rule.action in ("delay", "operation")):
            return True
        if rule is not None and rule.action in ("error", "error-only"):
            self._faults.record(rule, wire.IO, read.op_id, bytes(44))
            return False
        data = read_padded(disk.image(), read.offset, read.length)
        if rule is None or cut:
            self._channel.send(b"".join(self._records(read, data))[: read.length // 2])
            raise Ended("closed by a rule")
        if rule.action == "unsolicited":
            self._channel.send(wire.record(rule.code, (1 << 32) - 1, bytes(16)))
        answer = b"".join(spoil(read, data, rule, self._knobs.codes, self._knobs.seed))
        if rule.action == "truncated":
            self._channel.send(answer[: -max(1, read.length // 8)])
            raise Ended("truncated by a rule")
        self._faults.send(rule, answer)
        return False

    def _records(self, read: Read, data: bytes) -> Iterator[bytes]:
        for at in range(0, read.length, self._buffer):
            piece = data[at : at + self._buffer]
            body = FRAGMENT_BODY.pack(
                0, 1, wire.PLAIN, read.offset, read.length, at, len(piece), len(piece), 0
            )
            yield wire.record(wire.IO, read.op_id, body, piece)

    def _send_fragment(self, image: int, read: Read, at: int, offered: list[str]) -> int:
        """Send one fragment in one write; return the bytes of its extra."""
        length = min(self._buffer, read.length - at)
        block = self._block
        target = block[HEAD : HEAD + length]
        done = os.preadv(image, [target], read.offset + at)
        while done < length:
            got = os.preadv(image, [target[done:]], read.offset + at + done)
            if not got:
                target[done:] = bytes(length - done)
                break
            done += got
        code, extra = encoded(target, read.code, offered)
        size = len(extra)
        FRAGMENT_HEAD.pack_into(
            block, 0, wire.MAGIC, wire.IO, FRAGMENT_BODY.size, read.op_id,
            0, 1, code, read.offset, read.length, at, length, size, 0,
        )  # fmt: skip
        if code != wire.PLAIN:
            block[HEAD : HEAD + size] = extra
        self._channel.send(block[: HEAD + size])
        return size
